package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// app is one run of the program. What a command needs of the world stands here.
type app struct {
	version string
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	build   func(appliance.Options) (service, error)

	// flags of every command
	configPath string
	output     string
	server     string
	tokenFile  string
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// execute runs one command line and returns its exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var problems config.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Fprintln(a.stderr, "forebay: "+p.String())
		}
		return exitFailure
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	text := oneLine(err.Error())
	if !strings.HasPrefix(text, "forebay ") { // else it begins with the command
		text = "forebay: " + text
	}
	fmt.Fprintln(a.stderr, text)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailure
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func (a *app) root() *cobra.Command {
	root := a.group("forebay", "Take one-way messages, keep every one, and drain them into PostgreSQL",
		a.serveCommand(), a.versionCommand(), a.configCommand(), a.accountCommand(), a.keyCommand(), a.limitsCommand(), a.breakerCommand(), a.sendCommand(), a.messageCommand(), a.usageCommand(),
		a.statusCommand(), a.clusterCommand(), a.auditCommand(), a.walCommand(), a.backupCommand(), a.restoreCommand(), a.drainCommand(), a.benchCommand(), a.docsCommand())
	root.SilenceUsage, root.SilenceErrors = true, true
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, chooseCommand
		}
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see `%s --help`", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", "", "configuration `FILE` (default $FOREBAY_CONFIG, else "+config.DefaultPath+")")
	flags.StringVarP(&a.output, "output", "o", "text", "how to print: text or json")
	flags.StringVar(&a.server, "server", "", "ops `URL` of the appliance to talk to (default: its admin socket)")
	flags.StringVar(&a.tokenFile, "token-file", "", "`FILE` with the admin token, for --server")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.output != "text" && a.output != "json" {
			return usagef("--output %q: write text or json", a.output)
		}
		if a.tokenFile != "" && a.server == "" {
			return usagef("--token-file is for --server URL; the admin socket needs none")
		}
		if instead, local := withoutServer[cmd.CommandPath()]; local && a.server != "" {
			return usagef("%s %s; leave out --server", cmd.CommandPath(), instead)
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return chooseCommand(cmd, args)
	}
	return root
}

// withoutServer are the commands that speak to no ops listener, and what they do
// instead: whoever gives them one must not believe that it was asked.
var withoutServer = map[string]string{
	"forebay send": "speaks to the public API, which --url names", "forebay serve": "runs here", "forebay version": "tells of this program",
	"forebay config check": "reads files of this machine", "forebay restore": "works on this machine's stopped appliance",
	"forebay wal verify": "works on this machine's stopped appliance", "forebay wal salvage": "works on this machine's stopped appliance",
	"forebay cluster recover": "works on this machine's stopped appliance", "forebay cluster certs": "writes files on this machine", "forebay docs man": "writes files on this machine",
}

// group is a command that only has others below it.
func (a *app) group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.AddCommand(commands...)
	cmd.RunE = chooseCommand
	return cmd
}

// chooseCommand is what a group does by itself: it says what there is.
func chooseCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if len(args) == 0 {
		return usagef("%s: which command? There are %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	// Near ones from cobra, by edit distance.
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("%s: unknown command %q; did you mean %s?", cmd.CommandPath(), args[0], strings.Join(near, " or "))
	}
	return usagef("%s: unknown command %q; there are %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
}

// exactly wants these arguments, by name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usagef("%s takes no arguments, got %q; see `%[1]s --help`", cmd.CommandPath(), args[0])
		}
		return usagef("%s wants %s, got %d arguments; see `%[1]s --help`", cmd.CommandPath(), strings.Join(names, " "), len(args))
	}
}

// config loads the configuration, without its secrets: a command that talks to
// the appliance may be run by someone who must not read them. Where nobody
// named a file and the usual one does not exist, it is that of `serve --dev`.
func (a *app) config() (config.Config, config.Sources, error) {
	path := config.Path(a.configPath, a.environ)
	if path == config.DefaultPath && a.configPath == "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return config.LoadDev(devDir, a.environ)
		}
	}
	return config.Load(path, a.environ)
}

// client returns a client of the running appliance.
func (a *app) client() (*admin.Client, error) {
	if a.server == "" {
		c, _, err := a.config()
		if errors.As(err, new(config.Problems)) {
			socket := config.SocketDespite(config.Path(a.configPath, a.environ), a.environ)
			if _, statErr := os.Stat(socket); statErr == nil {
				return admin.NewSocketClient(socket), nil
			}
		}
		if err != nil {
			return nil, err
		}
		return admin.NewSocketClient(c.AdminSocket()), nil
	}
	token := ""
	if a.tokenFile != "" {
		content, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read admin token: %w", err)
		}
		token = strings.TrimRight(string(content), "\r\n")
	}
	client, err := admin.NewClient(a.server, token)
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}

// withClient is for commands that are one conversation with the appliance.
func (a *app) withClient(talk func(ctx context.Context, c *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return a.withToken(talk(cmd.Context(), c, args))
	}
}

// withToken adds to a refusal for want of the admin token how to show it.
func (a *app) withToken(err error) error {
	if p, ok := errors.AsType[*admin.Problem](err); !ok || p.Code != admin.CodeUnauthenticated {
		return err
	}
	if a.tokenFile == "" {
		return fmt.Errorf("%w: add --token-file FILE", err)
	}
	return fmt.Errorf("%w: what %s holds is not what the appliance has (http.admin_token_file)", err, a.tokenFile)
}

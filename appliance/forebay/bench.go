package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"forebay/appliance/config"
	"forebay/appliance/loadtest"
	"forebay/httpapi/admin"
)

// benchFlags is the load as the command line gives it.
type benchFlags struct {
	sender
	accounts                int
	tier                    string
	rate, priorities, sizes string
	duration, ramp, timeout string
	acked                   string
	load                    loadtest.Config
}

func (a *app) benchCommand() *cobra.Command {
	var b benchFlags
	cmd := &cobra.Command{Use: "bench", Short: "Send messages at a rate and measure the answers", Args: exactly(),
		Long: `Send messages at a rate and measure the answers.

The rate is kept whatever the appliance does (open loop): latency counts from the
moment a message was due, so that a stall shows. With --rate max each connection
sends as soon as it has its answer (closed loop): that finds the throughput, and
its latencies say little.`}
	b.flags(cmd)
	flags := cmd.Flags()
	flags.IntVar(&b.accounts, "accounts", 0, "make `N` accounts for the run, through the admin socket or --server, and delete them after it")
	flags.StringVar(&b.tier, "tier", "", "`PLAN` of these accounts (default development, else enterprise)")
	flags.StringVar(&b.rate, "rate", "1000", "messages a second over all connections, or max")
	flags.IntVarP(&b.load.Connections, "connections", "c", 64, "how many to keep open")
	flags.StringVarP(&b.duration, "duration", "d", "10s", "how long to send; 0: until --count")
	flags.Uint64VarP(&b.load.Count, "count", "n", 0, "how many messages to send; 0: as many as --duration allows")
	flags.StringVar(&b.ramp, "ramp", "0", "how long connecting takes, before the clock starts; 0: 200µs each")
	flags.StringVar(&b.timeout, "timeout", "10s", "for one answer")
	flags.StringVar(&b.load.Channel, "channel", "store", "channel of the messages")
	flags.StringVar(&b.load.To, "to", "", "their `RECIPIENT`")
	flags.StringVar(&b.priorities, "priorities", "critical:1,high:2,normal:6,low:1", "mix of priorities")
	flags.StringVar(&b.sizes, "sizes", "256", "mix of body sizes in bytes, as in 256:8,4096:2")
	flags.Uint64Var(&b.load.Seed, "seed", 1, "makes a run reproducible")
	flags.StringVar(&b.acked, "acked", "", "write each acknowledged id and its client_ref to `FILE`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if b.load.Count > 0 && !cmd.Flags().Changed("duration") {
			b.duration = "0"
		}
		if err := b.parse(); err != nil {
			return err
		}
		return a.bench(cmd.Context(), &b)
	}
	return cmd
}

func (b *benchFlags) parse() (err error) {
	if b.rate != "max" {
		if b.load.Rate, err = strconv.ParseFloat(b.rate, 64); err != nil || b.load.Rate <= 0 {
			return usagef("--rate %q: write messages a second, or max", b.rate)
		}
	}
	for _, d := range []struct {
		flag, text string
		into       *time.Duration
	}{{"duration", b.duration, &b.load.Duration}, {"ramp", b.ramp, &b.load.Ramp}, {"timeout", b.timeout, &b.load.Timeout}} {
		if *d.into, err = config.ParseDuration(d.text); err != nil {
			return usagef("--%s %q is %w", d.flag, d.text, err)
		}
	}
	if b.load.Priorities, err = loadtest.ParsePriorities(b.priorities); err != nil {
		return usagef("--priorities: %w", err)
	}
	if b.load.Sizes, err = loadtest.ParseSizes(b.sizes); err != nil {
		return usagef("--sizes: %w", err)
	}
	if b.accounts < 0 || b.accounts > 10_000 {
		return usagef("--accounts %d is out of range; write 1 to 10000", b.accounts)
	}
	return nil
}

func (a *app) bench(ctx context.Context, b *benchFlags) (err error) {
	b.load.URL = b.baseURL(a)
	if b.accounts > 0 {
		c, clientErr := a.client()
		if clientErr != nil {
			return clientErr
		}
		defer c.Close()
		defer func() { err = errors.Join(err, deleteBenchAccounts(c, b)) }()
		if b.load.Keys, err = createBenchAccounts(ctx, c, b); err != nil {
			return err
		}
	} else if b.load.Keys, err = b.keys(a); err != nil {
		return err
	}
	if err := b.load.Validate(); err != nil {
		return usageError{err}
	}
	if b.acked != "" {
		f, createErr := os.Create(b.acked)
		if createErr != nil {
			return fmt.Errorf("create file of acknowledged ids: %w", createErr)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		b.load.Acked = f
	}
	if isTerminal(a.stderr) {
		b.load.Progress = func(p loadtest.Progress) { fmt.Fprintf(a.stderr, "\r\x1b[K%s", p) }
	}
	result, err := loadtest.Run(ctx, b.load)
	if b.load.Progress != nil {
		fmt.Fprint(a.stderr, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	return a.printBench(result)
}

func (a *app) printBench(result loadtest.Result) error {
	if a.output == "json" {
		if err := a.printJSON(result, indented); err != nil {
			return err
		}
	} else if err := result.WriteText(a.stdout); err != nil {
		return err
	}
	if result.OK == 0 {
		return errors.New("not one message was accepted; the table says why")
	}
	return nil
}

func benchAccount(b *benchFlags, i int) string {
	return fmt.Sprintf("bench-%d-%d", os.Getpid(), i)
}

func createBenchAccounts(ctx context.Context, c *admin.Client, b *benchFlags) ([]string, error) {
	var keys []string
	for i := range b.accounts {
		id := benchAccount(b, i)
		if err := createBenchAccount(ctx, c, b, id); err != nil {
			return nil, fmt.Errorf("create account %s: %w", id, err)
		}
		key, err := c.CreateKey(ctx, id, admin.CreateKey{Label: "bench"})
		if err != nil {
			return nil, fmt.Errorf("create key of account %s: %w", id, err)
		}
		keys = append(keys, key.Secret)
	}
	return keys, nil
}

// createBenchAccount takes the plan for development where there is one: any
// other is soon used up, and then refusals are what is measured.
func createBenchAccount(ctx context.Context, c *admin.Client, b *benchFlags, id string) error {
	tiers := []string{b.tier}
	if b.tier == "" {
		tiers = []string{"development", "enterprise"}
	}
	var err error
	for _, tier := range tiers {
		var problem *admin.Problem
		_, err = c.CreateAccount(ctx, admin.CreateAccount{ID: id, Tier: tier, Name: "forebay bench"})
		if err == nil || !errors.As(err, &problem) || problem.Code != "unknown_tier" {
			break
		}
	}
	return err
}

// deleteBenchAccounts runs after an interrupt, too, so it has a context of its own.
func deleteBenchAccounts(c *admin.Client, b *benchFlags) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var failed error
	for i := range b.accounts {
		var problem *admin.Problem
		err := c.DeleteAccount(ctx, benchAccount(b, i))
		if err != nil && !(errors.As(err, &problem) && problem.Status == 404) {
			failed = fmt.Errorf("delete account %s: %w", benchAccount(b, i), err)
		}
	}
	return failed
}

package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manual writes pages in the language of man(7).
type manual struct{ date, version string }

// The sections that every page, or the first one, ends with.
const (
	exitStatus = `.SH EXIT STATUS
.TP
0
done
.TP
1
failed; standard error says why and what to do, in one line
.TP
2
the command line makes no sense
`
	filesOfAll = `.SH FILES
.TP
.I /etc/forebay/forebay.yaml
the configuration, see
.BR forebay.yaml (5)
.TP
.I /run/forebay/admin.sock
where commands reach the appliance of the package; else
.I admin.sock
in data_dir. Who may use it may administer: root and the group forebay
.SH ENVIRONMENT
.TP
.B FOREBAY_CONFIG
the configuration file
.TP
.B FOREBAY_KEY, FOREBAY_URL
the API key and the public API of
.BR forebay-send (1)
and
.BR forebay-bench (1)
.TP
.B FOREBAY_SECTION_KEY
one key of the configuration
`
)

// command is the page of a command.
func (m manual) command(c *cobra.Command) string {
	var b strings.Builder
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	m.head(&b, name, "1", c.Short)
	b.WriteString(".SH SYNOPSIS\n.B " + roff(c.CommandPath()) + "\n")
	if c.HasAvailableSubCommands() {
		b.WriteString(".I COMMAND\n")
	} else {
		_, arguments, _ := strings.Cut(strings.TrimSuffix(c.UseLine(), " [flags]"), c.CommandPath())
		if arguments = strings.TrimSpace(arguments); arguments != "" {
			b.WriteString(".I " + roff(arguments) + "\n")
		}
	}
	b.WriteString("[\\fIoptions\\fR]\n.SH DESCRIPTION\n")
	description := c.Long
	if description == "" {
		description = c.Short + "."
	}
	paragraphs(&b, description)
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(name+"-"+sub.Name()), roff(sub.Short))
			}
		}
	}
	options(&b, "OPTIONS", c.NonInheritedFlags())
	options(&b, "OPTIONS OF EVERY COMMAND", c.InheritedFlags())
	b.WriteString(exitStatus)
	if !c.HasParent() {
		b.WriteString(filesOfAll)
	}
	b.WriteString(".SH SEE ALSO\n")
	if c.HasParent() {
		b.WriteString(".BR " + roff(strings.ReplaceAll(c.Parent().CommandPath(), " ", "-")) + " (1),\n")
	}
	b.WriteString(".BR forebay.yaml (5),\n.I /usr/share/doc/forebay\n")
	return b.String()
}

func (m manual) head(b *strings.Builder, name, section, short string) {
	fmt.Fprintf(b, ".TH \"%s\" %s \"%s\" \"%s\" \"Forebay\"\n.nh\n.ad l\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)), section, m.date, roff("forebay "+m.version), roff(name), roff(short))
}

func options(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	b.WriteString(".SH " + title + "\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			b.WriteString("\\fB\\-" + f.Shorthand + "\\fR, ")
		}
		b.WriteString("\\fB\\-\\-" + roff(f.Name) + "\\fR")
		if value != "" {
			b.WriteString(" \\fI" + roff(value) + "\\fR")
		}
		switch f.DefValue {
		case "", "0", "false", "[]":
		default:
			usage += " (default " + f.DefValue + ")"
		}
		b.WriteString("\n" + roff(usage) + "\n")
	})
}

// paragraphs writes text as help has it: an empty line ends a paragraph, and what
// is indented stays as it is.
func paragraphs(b *strings.Builder, text string) {
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") {
			b.WriteString(".PP\n.nf\n" + roff(strings.Trim(paragraph, "\n")) + "\n.fi\n")
			continue
		}
		b.WriteString(".PP\n" + roff(strings.TrimSpace(paragraph)) + "\n")
	}
}

var (
	code     = regexp.MustCompile("`([^`]+)`")
	emphasis = regexp.MustCompile(`(^|[ (])\*([^*]+)\*`)
	control  = regexp.MustCompile(`(?m)^([.'])`)
)

// roff is text in which nothing is taken for a request or an escape; what is set
// as code is bold.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	text = control.ReplaceAllString(text, `\&$1`)
	text = code.ReplaceAllString(text, `\fB$1\fR`)
	return emphasis.ReplaceAllString(text, `$1\fI$2\fR`)
}

// A row of the configuration reference: key, default, what it takes to change it,
// and what it is.
var referenceRow = regexp.MustCompile("^\\| `([^`]+)` \\| `([^`]*)` \\| (\\w+) \\| (.*) \\|$")

// reference is the page of the configuration, of what packaging/doc/configuration.md
// says.
func (m manual) reference(text string) string {
	var b strings.Builder
	m.head(&b, "forebay.yaml", "5", "configuration of the Forebay message buffer")
	b.WriteString(`.SH DESCRIPTION
YAML, read from \-\-config, else FOREBAY_CONFIG, else
.IR /etc/forebay/forebay.yaml ;
over it come
.I conf.d/*.yaml
beside it in the order of their names, then
.IR forebay.ENVIRONMENT.yaml ,
then variables. An unknown key is an error.
.B forebay config check
.I FILE
reports every mistake with its line;
.B forebay config show
prints what is in force.
`)
	_, body, _ := strings.Cut(text, "do not edit it.\n")
	var prose []string
	flush := func() {
		if len(prose) > 0 {
			b.WriteString(".PP\n" + roff(strings.Join(prose, "\n")) + "\n")
		}
		prose = nil
	}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		section, heading := strings.CutPrefix(line, "## ")
		row := referenceRow.FindStringSubmatch(line)
		switch {
		case heading:
			flush()
			b.WriteString(".SH " + strings.ToUpper(roff(section)) + "\n")
		case row != nil:
			value := row[2]
			if value == `""` {
				value = "empty"
			}
			rest := "Default: " + value + "; " + row[3] + "."
			if what := strings.TrimSpace(row[4]); what != "" {
				rest = what + ". " + rest
			}
			b.WriteString(".TP\n.B " + roff(row[1]) + "\n" + roff(rest) + "\n")
		case strings.HasPrefix(line, "|"): // the head of a table
		case line == "":
			flush()
		default:
			prose = append(prose, line)
		}
	}
	flush()
	b.WriteString(".SH SEE ALSO\n.BR forebay (1),\n.BR forebay\\-config (1),\n.I /usr/share/doc/forebay\n")
	return b.String()
}

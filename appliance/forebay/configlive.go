package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) configShowCommand() *cobra.Command {
	var file bool
	cmd := &cobra.Command{Use: "show [VERSION]", Short: "Print the configuration that runs, or a version of it", Args: cobra.MaximumNArgs(1),
		Long: `Print the configuration that the running appliance uses, secrets replaced, or a
version of its history. Where none runs, and with --file, print what ` + "`serve`" + `
would use, and what set each value.`}
	cmd.Flags().BoolVar(&file, "file", false, "print what the files and the environment say, not what runs")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return a.showVersion(cmd.Context(), args[0])
		}
		if !file {
			err := a.showRunning(cmd.Context())
			var refused *admin.Problem
			if err == nil || a.server != "" || errors.As(err, &refused) {
				return err
			}
		}
		c, sources, err := a.config()
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(c.Tree(), indented)
		}
		_, err = io.WriteString(a.stdout, c.YAML(sources))
		return err
	}
	return cmd
}

func (a *app) showRunning(ctx context.Context) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Config(ctx)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(r, indented)
	}
	head := fmt.Sprintf("# version %d, since %s\n", r.Version, local(r.LoadedAt))
	if len(r.Drift) > 0 {
		head += "# the files or the group say otherwise: " + strings.Join(r.Drift, ", ") + "\n"
	}
	_, err = io.WriteString(a.stdout, head+r.YAML)
	return err
}

func (a *app) showVersion(ctx context.Context, text string) error {
	n, err := versionNumber(text)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	v, err := c.ConfigVersion(ctx, n)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(v, indented)
	}
	_, err = io.WriteString(a.stdout, v.YAML)
	return err
}

func versionNumber(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usagef("%q is no version; write its number, as `forebay config history` lists it", text)
	}
	return n, nil
}

func (a *app) configReloadCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "reload", Short: "Make the appliance read its configuration anew, and wait for what comes of it", Args: exactly()}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		r, err := c.ReloadConfig(ctx)
		if err != nil {
			return err
		}
		return a.printResult(r)
	})
	return cmd
}

func (a *app) configRollbackCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rollback VERSION", Short: "Go back to an earlier version of the configuration", Args: exactly("VERSION"),
		Long: `Go back to an earlier version of the configuration, as a new version. The
configuration file is not touched: until it is changed, too, the appliance shows
a drift, and the next start takes what the file says.`}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		n, err := versionNumber(args[0])
		if err != nil {
			return err
		}
		r, err := c.RollbackConfig(ctx, n)
		if err != nil {
			return err
		}
		return a.printResult(r)
	})
	return cmd
}

// printResult prints what came of a change. What was refused is an error, too.
func (a *app) printResult(r admin.ConfigResult) error {
	err := a.print(r, func(w io.Writer) {
		row(w, r.Outcome, fmt.Sprintf("version %d", r.Version))
		for _, k := range r.Applied {
			row(w, "applied", k.Key, k.Old+" → "+k.New)
		}
		for _, k := range r.NeedsRestart {
			row(w, "needs restart", k.Key, k.Old+" → "+k.New)
		}
		for _, p := range r.Rejected {
			row(w, "rejected", orDash(p.Key), p.Reason, p.Where)
		}
		for _, text := range r.Warnings {
			row(w, "warning", text)
		}
		if !r.ProbationUntil.IsZero() {
			row(w, "on probation", "until "+local(r.ProbationUntil))
		}
		if r.Detail != "" {
			row(w, "note", r.Detail)
		}
	})
	if err != nil {
		return err
	}
	switch r.Outcome {
	case admin.ConfigRejected:
		return fmt.Errorf("the configuration is rejected, %d wrong in it, and what ran before runs on", len(r.Rejected))
	case admin.ConfigFailed:
		return errors.New(r.Detail)
	}
	return nil
}

func (a *app) configHistoryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "history", Short: "List the versions of the configuration, the newest first", Args: exactly()}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		list, err := c.ConfigHistory(ctx)
		if err != nil {
			return err
		}
		return a.print(admin.ConfigHistory{Data: list}, func(w io.Writer) {
			row(w, "VERSION", "TIME", "WHO", "SOURCE", "OUTCOME", "CHANGED")
			for _, v := range list {
				var keys []string
				for _, k := range v.Changed {
					keys = append(keys, k.Key)
				}
				number := strconv.FormatUint(v.Version, 10)
				if v.Running {
					number += " *"
				}
				row(w, number, local(v.At), orDash(v.Who), v.Source, v.Outcome, orDash(strings.Join(keys, ", ")))
			}
		})
	})
	return cmd
}

func (a *app) configDiffCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "diff A B", Short: "Say what changes from one version of the configuration to another", Args: exactly("A", "B")}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		from, err := versionNumber(args[0])
		if err != nil {
			return err
		}
		to, err := versionNumber(args[1])
		if err != nil {
			return err
		}
		d, err := c.DiffConfig(ctx, from, to)
		if err != nil {
			return err
		}
		return a.print(d, func(w io.Writer) {
			for _, k := range d.Changed {
				row(w, k.Key, orDash(k.Old), "→", orDash(k.New))
			}
			if len(d.Changed) == 0 {
				row(w, fmt.Sprintf("Versions %d and %d say the same.", from, to))
			}
		})
	})
	return cmd
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "status", Short: "Show how the appliance is doing", Args: exactly()}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second until interrupted")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		if watch {
			return a.watchStatus(ctx, c)
		}
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		return a.print(s, func(w io.Writer) { statusTable(w, s) })
	})
	return cmd
}

// watchStatus prints the status each second: over itself on a terminal, as one
// line of JSON with --output json. An appliance that restarts is waited for.
func (a *app) watchStatus(ctx context.Context, c *admin.Client) error {
	if _, err := c.Status(ctx); err != nil {
		return err
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		s, err := c.Status(ctx)
		if ctx.Err() != nil {
			return nil // an interrupt is how a watch ends
		}
		if a.output == "json" {
			if err == nil {
				err = a.printJSON(s)
			}
			if err != nil {
				return err
			}
		} else {
			if isTerminal(a.stdout) {
				fmt.Fprint(a.stdout, "\x1b[H\x1b[J")
			}
			printed := a.print(s, func(w io.Writer) {
				if err != nil {
					row(w, "unreachable", err)
					return
				}
				statusTable(w, s)
			})
			if printed != nil {
				return printed
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func seconds(s float64) string {
	d, unit := time.Duration(s*float64(time.Second)), time.Millisecond
	if d >= time.Second {
		unit = time.Second
	}
	return config.FormatDuration(d.Round(unit))
}

func (a *app) auditCommand() *cobra.Command {
	var since string
	cmd := &cobra.Command{Use: "audit", Short: "Prove that every accepted message is there; fails if one is missing", Args: exactly()}
	cmd.Flags().StringVar(&since, "since", "", "only accepted since `TIME`, or so long ago (15m, 2d)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		from, err := parseMoment("since", since)
		if err != nil {
			return err
		}
		x, err := c.Audit(ctx, from)
		if err != nil {
			return err
		}
		err = a.print(x, func(w io.Writer) {
			row(w, "node", x.Node)
			numbers := "none"
			if x.To >= x.From {
				numbers = fmt.Sprintf("%d to %d", x.From, x.To)
			}
			row(w, "numbers", numbers)
			row(w, "accepted", x.Accepted)
			row(w, "stored", x.Stored)
			row(w, "final", x.Final)
			row(w, "waiting", x.Waiting)
			if x.Abandoned > 0 {
				row(w, "abandoned", fmt.Sprintf("%d: accepted after the backup that was restored here, and lost with the appliance of then", x.Abandoned))
			}
			row(w, "missing", x.Missing)
		})
		if err == nil && x.Missing > 0 {
			err = fmt.Errorf("%d accepted messages are in neither log nor store, the first with number %v; was the database restored from a backup? Else stop the appliance and run `forebay wal verify`", x.Missing, first(x.MissingNumbers))
		}
		return err
	})
	return cmd
}

func first(numbers []uint64) any {
	if len(numbers) == 0 {
		return "unknown"
	}
	return numbers[0]
}

func (a *app) drainCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: "drain", Short: "Stop the appliance gracefully", Args: exactly()}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when it has stopped")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		if err := c.Drain(ctx); err != nil {
			return err
		}
		state := "draining"
		if wait {
			if err := untilGone(ctx, c); err != nil {
				return err
			}
			state = "stopped"
		}
		return a.print(map[string]string{"state": state}, func(w io.Writer) { row(w, state) })
	})
	return cmd
}

// untilGone returns when the appliance no longer answers.
func untilGone(ctx context.Context, c *admin.Client) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := c.Status(ctx); err != nil && !errors.As(err, new(*admin.Problem)) {
			return context.Cause(ctx)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

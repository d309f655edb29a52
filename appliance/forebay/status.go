package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/wal/message"
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

func statusTable(w io.Writer, s admin.Status) {
	row(w, "node", fmt.Sprintf("%d, version %s, up %s", s.Node, s.Version, seconds(s.UptimeSeconds)))
	row(w, "intake", fmt.Sprintf("%.0f/s, %d accepted, latency %s", s.Intake.Rate, s.Intake.AcceptedTotal, quantiles(s.Intake.Latency)))
	if len(s.Intake.Refused) > 0 {
		var parts []string
		for _, code := range slices.Sorted(maps.Keys(s.Intake.Refused)) {
			parts = append(parts, fmt.Sprintf("%s %d", code, s.Intake.Refused[code]))
		}
		row(w, "refused", strings.Join(parts, ", "))
	}
	var lanes []string
	for p := range message.Priority(message.Lanes) {
		lanes = append(lanes, fmt.Sprintf("%s %d", p, s.Log.Backlog[p.String()]))
	}
	row(w, "log", fmt.Sprintf("%s; oldest %s; %d MiB on disk; append %s", strings.Join(lanes, ", "), seconds(s.Log.OldestAgeSeconds), s.Log.DiskBytes>>20, quantiles(s.Log.AppendLatency)))
	store := "up"
	if !s.Store.Up {
		store = "DOWN since " + local(s.Store.DownSince) + ": " + s.Store.Detail
	}
	row(w, "store", fmt.Sprintf("%s, %s; %.0f rows/s in batches of %.0f, %s", s.Store.Kind, store, s.Store.Rate, s.Store.BatchSize, quantiles(s.Store.Latency)))
	var members []string
	for _, m := range s.Raft.Members {
		members = append(members, fmt.Sprintf("%d %s %s", m.Node, m.Role, m.Address))
	}
	row(w, "group", fmt.Sprintf("%s, term %d, leader %d; %s", s.Raft.Role, s.Raft.Term, s.Raft.Leader, strings.Join(members, ", ")))
	row(w, "config", fmt.Sprintf("version %d, loaded %s", s.Config.Version, local(s.Config.LoadedAt)))
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	return config.FormatDuration(d)
}

func quantiles(q admin.Quantiles) string {
	ms := func(s float64) float64 { return math.Round(s*1e5) / 100 }
	return fmt.Sprintf("p50 %v p90 %v p99 %v ms", ms(q.P50), ms(q.P90), ms(q.P99))
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
			row(w, "numbers", fmt.Sprintf("%d to %d", x.From, x.To))
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
			err = fmt.Errorf("%d accepted messages are in neither log nor store, the first with number %v; stop the appliance and run `forebay wal verify`", x.Missing, first(x.MissingNumbers))
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

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
	"forebay/wal/message"
)

// requeue is one run of `forebay message requeue`.
type requeue struct {
	*app
	client *admin.Client
	order  admin.RequeueOrder
	rate   int // messages a second
	yes    bool
}

// requeued is what it prints at its end.
type requeued struct {
	Matched  int                   `json:"matched"`
	Requeued int                   `json:"requeued"`
	Repeated int                   `json:"repeated"`
	Refused  []admin.RequeueFailed `json:"refused"`
	DryRun   bool                  `json:"dry_run"`
}

func (a *app) messageRequeueCommand() *cobra.Command {
	r := requeue{app: a}
	var since, until string
	var dryRun bool
	cmd := &cobra.Command{Use: "requeue [ID…]", Short: "Accept failed messages anew, each as a new message",
		Long: "Accept failed messages anew, each as a new message; the failed ones stay as they are.\n" +
			"It counts first and asks. Repeating it is harmless: a message is accepted anew once a day.", Args: cobra.ArbitraryArgs}
	flags := cmd.Flags()
	flags.StringVar(&r.order.Status, "status", "", "messages that are failed, undelivered, rejected or expired")
	flags.StringVar(&r.order.Channel, "channel", "", "only through this `CHANNEL`")
	flags.StringVar(&r.order.Account, "account", "", "only of this `ACCOUNT`")
	flags.StringVar(&since, "since", "", "only accepted since `TIME`, or so long ago (15m, 2d)")
	flags.StringVar(&until, "until", "", "only accepted before `TIME`, or so long ago; default now")
	flags.BoolVar(&r.order.Callbacks, "callbacks", false, "callbacks too, which tell of other messages")
	flags.StringVar(&r.order.Priority, "priority", "low", "`LANE` of the new messages: critical, high, normal or low")
	flags.IntVar(&r.rate, "rate", 100, "how many a second, 1 to 1000")
	flags.BoolVar(&dryRun, "dry-run", false, "only count")
	flags.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		r.client = c
		if (len(args) == 0) == (r.order.Status == "") {
			return usagef("name the messages by ID, or those of a --status such as failed")
		}
		if r.rate < 1 || r.rate > 1000 {
			return usagef("--rate %d is out of range; write 1 to 1000", r.rate)
		}
		for _, text := range args {
			id, err := message.ParseID(text)
			if err != nil {
				return usagef("%q is no message id", text)
			}
			r.order.IDs = append(r.order.IDs, id)
		}
		var err error
		if r.order.Since, err = parseMoment("since", since); err != nil {
			return err
		}
		if r.order.Until, err = parseMoment("until", until); err != nil {
			return err
		}
		if len(args) == 0 && r.order.Until.IsZero() {
			r.order.Until = time.Now() // what fails while it runs is not part of it
		}
		return r.run(ctx, dryRun)
	})
	return cmd
}

// run counts, asks and requeues.
func (r *requeue) run(ctx context.Context, dryRun bool) error {
	counted, err := r.steps(ctx, true)
	if err != nil || dryRun || counted.Matched == 0 {
		return errors.Join(err, r.report(counted, err))
	}
	if err := r.confirm(counted.Matched); err != nil {
		return err
	}
	done, err := r.steps(ctx, false)
	return errors.Join(err, r.report(done, nil))
}

// confirm asks on a terminal; elsewhere --yes must have said it.
func (r *requeue) confirm(n int) error {
	if r.yes {
		return nil
	}
	if !isTerminal(os.Stdin) {
		return usagef("%d messages would be accepted anew; add --yes, or --dry-run to count only", n)
	}
	fmt.Fprintf(r.stderr, "Accept %d messages anew, with priority %s, %d a second? [y/N] ", n, r.order.Priority, r.rate)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// steps orders one step after another: as fast as it can while it counts, at the
// rate while it requeues.
func (r *requeue) steps(ctx context.Context, dryRun bool) (total requeued, err error) {
	order := r.order
	order.DryRun, total.DryRun = dryRun, dryRun
	rest := order.IDs
	for {
		order.Limit = 1000
		if !dryRun {
			order.Limit = r.rate
		}
		if len(r.order.IDs) > 0 {
			n := min(order.Limit, len(rest))
			order.IDs, rest = rest[:n], rest[n:]
		}
		began := time.Now()
		a, err := r.client.Requeue(ctx, order)
		if err != nil {
			return total, err
		}
		total.Matched, total.Requeued, total.Repeated = total.Matched+a.Matched, total.Requeued+a.Requeued, total.Repeated+a.Repeated
		total.Refused = append(total.Refused, a.Refused...)
		if !dryRun && r.output == "text" {
			fmt.Fprintf(r.stderr, "%d accepted anew, %d were already\n", total.Requeued, total.Repeated)
		}
		if !a.HasMore && len(rest) == 0 {
			return total, nil
		}
		order.Cursor = a.NextCursor
		if !dryRun {
			pause := time.NewTimer(time.Until(began.Add(time.Second)))
			select {
			case <-ctx.Done():
				pause.Stop()
				return total, context.Cause(ctx)
			case <-pause.C:
			}
		}
	}
}

func (r *requeue) report(total requeued, err error) error {
	if err != nil {
		return nil // there is nothing to tell beside it
	}
	total.Refused = nonNil(total.Refused)
	err = r.print(total, func(w io.Writer) {
		if total.DryRun {
			row(w, fmt.Sprintf("%d messages would be accepted anew.", total.Matched))
		} else {
			row(w, fmt.Sprintf("%d messages were accepted anew, %d had been before.", total.Requeued, total.Repeated))
		}
		for _, f := range total.Refused {
			row(w, f.ID, f.Code)
		}
	})
	if err == nil && len(total.Refused) > 0 {
		err = fmt.Errorf("%d of the messages cannot be accepted anew; the list above says why", len(total.Refused))
	}
	return err
}

func (a *app) usageCommand() *cobra.Command {
	var month string
	cmd := &cobra.Command{Use: "usage ACCOUNT", Short: "Count an account's messages of a month by day, channel and status", Args: exactly("ACCOUNT")}
	cmd.Flags().StringVar(&month, "month", "", "`MONTH` such as 2026-11 (default: this one)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		u, err := c.Usage(ctx, args[0], month)
		if err != nil {
			return err
		}
		u.Data = nonNil(u.Data)
		return a.print(u, func(w io.Writer) {
			row(w, "DAY", "CHANNEL", "STATUS", "COUNT")
			for _, d := range u.Data {
				row(w, d.Day, d.Channel, d.Status, d.Count)
			}
			row(w, "", "", "all", u.Total)
		})
	})
	return cmd
}

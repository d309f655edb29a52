package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) messageCommand() *cobra.Command {
	show := &cobra.Command{Use: "show ID", Short: "Show a message and how far it has got", Args: exactly("ID")}
	show.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		m, err := c.Message(ctx, args[0])
		if err != nil {
			return err
		}
		var broken error
		err = a.print(m, func(w io.Writer) { broken = object(w, m) })
		return errors.Join(err, broken)
	})
	cancel := &cobra.Command{Use: "cancel ID", Short: "Cancel a message that is not being sent yet", Args: exactly("ID")}
	cancel.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		m, err := c.CancelMessage(ctx, args[0])
		if err != nil {
			return err
		}
		var broken error
		err = a.print(m, func(w io.Writer) { broken = object(w, m) })
		return errors.Join(err, broken)
	})
	return a.group("message", "Look at messages, cancel them, try failed ones again", show, a.messageListCommand(), cancel, a.messageRequeueCommand())
}

func (a *app) messageListCommand() *cobra.Command {
	var q admin.MessageQuery
	var since, until string
	cmd := &cobra.Command{Use: "list", Short: "List messages, newest first", Args: exactly()}
	flags := cmd.Flags()
	flags.StringVar(&q.Account, "account", "", "only of this `ACCOUNT`")
	flags.StringVar(&q.Status, "status", "", "only with this `STATUS`, such as failed")
	flags.StringVar(&q.Channel, "channel", "", "only through this `CHANNEL`")
	flags.StringVar(&q.To, "to", "", "only to this `RECIPIENT`")
	flags.StringVar(&q.ClientRef, "client-ref", "", "only with this client `REFERENCE`")
	flags.StringVar(&since, "since", "", "only accepted since `TIME`, or so long ago (15m, 2d)")
	flags.StringVar(&until, "until", "", "only accepted before `TIME`, or so long ago")
	flags.IntVar(&q.Limit, "limit", 20, "how many, 1 to 100")
	flags.StringVar(&q.Cursor, "cursor", "", "go on where the page before ended")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		var err error
		if q.AcceptedAfter, err = parseMoment("since", since); err != nil {
			return err
		}
		if q.AcceptedBefore, err = parseMoment("until", until); err != nil {
			return err
		}
		if q.Limit < 1 || q.Limit > 100 {
			return usagef("--limit %d is out of range; write 1 to 100", q.Limit)
		}
		page, err := c.Messages(ctx, q)
		if err != nil {
			return err
		}
		page.Data = nonNil(page.Data)
		var broken error
		err = a.print(page, func(w io.Writer) { broken = messageTable(w, page) })
		return errors.Join(err, broken)
	})
	return cmd
}

// messageRow is what the table shows of a message.
type messageRow struct {
	ID         string    `json:"id"`
	Account    string    `json:"account"`
	Status     string    `json:"status"`
	Channel    string    `json:"channel"`
	Priority   string    `json:"priority"`
	To         string    `json:"to"`
	ClientRef  string    `json:"client_ref"`
	AcceptedAt time.Time `json:"accepted_at"`
}

func messageTable(w io.Writer, page admin.MessagePage) error {
	if len(page.Data) == 0 {
		row(w, "No message.")
		return nil
	}
	row(w, "ID", "ACCEPTED", "STATUS", "CHANNEL", "PRIORITY", "ACCOUNT", "TO", "CLIENT REF")
	for _, v := range page.Data {
		var m messageRow
		if err := json.Unmarshal(jsontext.Value(v), &m); err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		row(w, m.ID, local(m.AcceptedAt), m.Status, m.Channel, m.Priority, orDash(m.Account), orDash(m.To), orDash(m.ClientRef))
	}
	if page.HasMore {
		row(w, "")
		row(w, "There are more: add --cursor "+page.NextCursor)
	}
	return nil
}

package main

import (
	"context"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) secretCommand() *cobra.Command {
	show := &cobra.Command{Use: "show ACCOUNT", Short: "Print the secret that an account's webhooks are signed with", Args: exactly("ACCOUNT")}
	show.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		s, err := c.WebhookSecret(ctx, args[0])
		return a.printSecret(s, err)
	})
	rotate := &cobra.Command{Use: "rotate ACCOUNT", Short: "Make another secret and print it; the one before signs on for a day", Args: exactly("ACCOUNT")}
	rotate.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		s, err := c.RotateWebhookSecret(ctx, args[0])
		return a.printSecret(s, err)
	})
	return a.group("secret", "See and rotate webhook secrets", show, rotate)
}

func (a *app) printSecret(s admin.WebhookSecret, err error) error {
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) { row(w, s.Secret) })
}

func (a *app) endpointCommand() *cobra.Command {
	list := &cobra.Command{Use: "list ACCOUNT", Short: "List an account's webhook addresses that fail or are switched off", Args: exactly("ACCOUNT")}
	list.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		endpoints, err := c.Endpoints(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(admin.EndpointList{Data: nonNil(endpoints)}, func(w io.Writer) {
			row(w, "ID", "HOST", "STATE", "FAILING SINCE", "PATIENCE USED")
			for _, e := range endpoints {
				state, used := "failing", strconv.Itoa(e.Warned)+" %"
				if !e.Disabled.IsZero() {
					state = "off: " + e.Reason
				}
				row(w, e.ID, e.Host, state, local(e.Since), used)
			}
		})
	})
	enable := &cobra.Command{Use: "enable ACCOUNT ENDPOINT", Short: "Send to an address again that was switched off", Args: exactly("ACCOUNT", "ENDPOINT")}
	enable.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		if err := c.EnableEndpoint(ctx, args[0], args[1]); err != nil {
			return err
		}
		return a.print(map[string]string{"enabled": args[1]}, func(w io.Writer) { row(w, "enabled", args[1]) })
	})
	return a.group("endpoint", "See failing webhook addresses and switch them on again", list, enable)
}

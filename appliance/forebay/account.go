package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) accountCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the accounts", Args: exactly()}
	list.RunE = a.withClient(func(ctx context.Context, c *admin.Client, _ []string) error {
		accounts, err := c.Accounts(ctx)
		if err != nil {
			return err
		}
		return a.print(admin.AccountList{Data: nonNil(accounts)}, func(w io.Writer) { accountTable(w, accounts) })
	})
	show := &cobra.Command{Use: "show ID", Short: "Show an account", Args: exactly("ID")}
	show.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		account, err := c.Account(ctx, args[0])
		return a.printAccount(account, err)
	})
	remove := &cobra.Command{Use: "delete ID", Short: "Delete an account and its keys; its messages stay", Args: exactly("ID")}
	remove.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		if err := c.DeleteAccount(ctx, args[0]); err != nil {
			return err
		}
		return a.print(map[string]string{"deleted": args[0]}, func(w io.Writer) { row(w, "deleted", args[0]) })
	})
	return a.group("account", "Manage accounts", a.accountCreateCommand(), list, show, a.accountSetCommand(),
		a.accountSuspendCommand("suspend", "Refuse an account's messages until it is resumed", true),
		a.accountSuspendCommand("resume", "Take an account's messages again", false), remove, a.secretCommand(), a.endpointCommand())
}

func (a *app) accountCreateCommand() *cobra.Command {
	var body admin.CreateAccount
	cmd := &cobra.Command{Use: "create ID --tier TIER", Short: "Create an account", Args: exactly("ID")}
	cmd.Flags().StringVar(&body.Tier, "tier", "", "its `PLAN`: basic, premium, enterprise, or one of your own (required)")
	cmd.Flags().StringVar(&body.Name, "name", "", "its `NAME`, for people")
	cmd.Flags().StringVar(&body.CallbackURL, "callback-url", "", "https `URL` that is told of its messages' status changes")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		if body.Tier == "" {
			return usagef("forebay account create: which plan? Add --tier basic, premium or enterprise")
		}
		body.ID = args[0]
		account, err := c.CreateAccount(ctx, body)
		return a.printAccount(account, err)
	})
	return cmd
}

func (a *app) accountSetCommand() *cobra.Command {
	var tier, name, callback string
	cmd := &cobra.Command{Use: "set ID", Short: "Change an account", Args: exactly("ID")}
	cmd.Flags().StringVar(&tier, "tier", "", "its `PLAN`")
	cmd.Flags().StringVar(&name, "name", "", "its `NAME`, for people")
	cmd.Flags().StringVar(&callback, "callback-url", "", "https `URL` that is told of status changes; empty: none")
	talk := a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		given := func(flag string, value *string) *string {
			if cmd.Flags().Changed(flag) {
				return value
			}
			return nil
		}
		account, err := c.PatchAccount(ctx, args[0], admin.PatchAccount{
			Tier: given("tier", &tier), Name: given("name", &name), CallbackURL: given("callback-url", &callback)})
		return a.printAccount(account, err)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f := cmd.Flags(); !f.Changed("tier") && !f.Changed("name") && !f.Changed("callback-url") {
			return usagef("forebay account set: nothing to change; add --tier, --name or --callback-url")
		}
		return talk(cmd, args)
	}
	return cmd
}

func (a *app) accountSuspendCommand(use, short string, suspended bool) *cobra.Command {
	cmd := &cobra.Command{Use: use + " ID", Short: short, Args: exactly("ID")}
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		account, err := c.PatchAccount(ctx, args[0], admin.PatchAccount{Suspended: &suspended})
		return a.printAccount(account, err)
	})
	return cmd
}

func (a *app) printAccount(account admin.Account, err error) error {
	if err != nil {
		return err
	}
	return a.print(account, func(w io.Writer) { accountTable(w, []admin.Account{account}) })
}

func accountTable(w io.Writer, accounts []admin.Account) {
	row(w, "ID", "TIER", "STATE", "KEYS", "CREATED", "NAME", "CALLBACK")
	for _, x := range accounts {
		state := "active"
		if x.Suspended {
			state = "suspended"
		}
		row(w, x.ID, x.Tier, state, x.Keys, local(x.CreatedAt), orDash(x.Name), orDash(x.CallbackURL))
	}
}

func (a *app) keyCommand() *cobra.Command {
	var body admin.CreateKey
	create := &cobra.Command{Use: "create ACCOUNT", Short: "Make an API key and print it, once", Args: exactly("ACCOUNT")}
	create.Flags().StringVar(&body.Label, "label", "", "`TEXT` that tells it from the account's other keys")
	create.Flags().BoolVar(&body.Test, "test", false, "a test key: its messages go the whole way but for the provider's call")
	create.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		key, err := c.CreateKey(ctx, args[0], body)
		if err != nil {
			return err
		}
		return a.print(key, func(w io.Writer) { row(w, key.Secret) })
	})
	list := &cobra.Command{Use: "list ACCOUNT", Short: "List an account's keys, revoked ones too", Args: exactly("ACCOUNT")}
	list.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		keys, err := c.Keys(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(admin.KeyList{Data: nonNil(keys)}, func(w io.Writer) { keyTable(w, keys) })
	})
	revoke := &cobra.Command{Use: "revoke KEYID", Short: "Take a key out of force, for good", Args: exactly("KEYID")}
	revoke.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		key, err := c.RevokeKey(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(key, func(w io.Writer) { keyTable(w, []admin.Key{key}) })
	})
	return a.group("key", "Manage API keys", create, list, revoke)
}

func keyTable(w io.Writer, keys []admin.Key) {
	row(w, "ID", "ACCOUNT", "STATE", "KIND", "CREATED", "REVOKED", "LABEL")
	for _, k := range keys {
		state, kind := "active", "live"
		if !k.RevokedAt.IsZero() {
			state = "revoked"
		}
		if k.Test {
			kind = "test"
		}
		row(w, k.ID, k.Account, state, kind, local(k.CreatedAt), local(k.RevokedAt), orDash(k.Label))
	}
}

// nonNil is the slice, never null in JSON.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

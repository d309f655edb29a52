package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

func (a *app) limitsCommand() *cobra.Command {
	show := &cobra.Command{Use: "show ACCOUNT", Short: "Show what an account has used of its plan, and which node holds what of it", Args: exactly("ACCOUNT")}
	show.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		v, err := c.Limits(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(v, func(w io.Writer) {
			row(w, "account", v.Account)
			row(w, "tier", v.Tier)
			mode := "enforce"
			if v.Shadow {
				mode = "shadow: counted, nothing is refused"
			}
			row(w, "mode", mode)
			row(w, "in a window", fmt.Sprintf("%d of %d used, %d lent to nodes and spent or not, %d left (window %gs)", v.Spent, v.RequestsPerMinute, v.Held, v.Remaining, v.WindowSeconds))
			row(w, "at once", fmt.Sprintf("%d of %d left, beside what nodes hold", v.BurstLeft, v.Burst))
			row(w, "in flight", fmt.Sprintf("nodes may have %d of %d", v.Slots, v.Concurrent))
			for _, h := range v.Holdings {
				row(w, fmt.Sprintf("node %d", h.Node), fmt.Sprintf("holds %d messages and %d requests, for %.0fs", h.Tokens, h.Slots, h.EndsInSeconds))
			}
		})
	})
	return a.group("limits", "Look at how accounts use their plans", show)
}

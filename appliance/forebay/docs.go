package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// docsCommand writes the manual pages of all commands; the package is built with
// it.
func (a *app) docsCommand() *cobra.Command {
	man := &cobra.Command{Use: "man DIR", Short: "Write a manual page for every command into DIR", Args: exactly("DIR")}
	man.RunE = func(cmd *cobra.Command, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return fmt.Errorf("forebay docs man: %w", err)
		}
		root := cmd.Root()
		root.DisableAutoGenTag = true // a build can be repeated: the date is SOURCE_DATE_EPOCH
		header := doc.GenManHeader{Section: "1", Source: "forebay " + a.version, Manual: "Forebay"}
		if err := doc.GenManTree(root, &header, args[0]); err != nil {
			return fmt.Errorf("forebay docs man: %w", err)
		}
		return nil
	}
	docs := a.group("docs", "Write documentation", man)
	docs.Hidden = true
	return docs
}

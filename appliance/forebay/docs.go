package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// docsCommand writes the manual pages: of all commands, and of the configuration
// by its reference. The package is built with it.
func (a *app) docsCommand() *cobra.Command {
	man := &cobra.Command{Use: "man DIR REFERENCE", Short: "Write a manual page for every command, and for the configuration, into DIR", Args: exactly("DIR", "REFERENCE")}
	man.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.writeManual(cmd.Root(), args[0], args[1]); err != nil {
			return fmt.Errorf("forebay docs man: %w", err)
		}
		return nil
	}
	docs := a.group("docs", "Write documentation", man)
	docs.Hidden = true
	return docs
}

func (a *app) writeManual(root *cobra.Command, dir, reference string) error {
	text, err := os.ReadFile(reference)
	if err != nil {
		return err
	}
	date := time.Now().UTC()
	if epoch, err := strconv.ParseInt(a.env("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		date = time.Unix(epoch, 0).UTC() // a build can be repeated
	}
	manual := manual{date: date.Format(time.DateOnly), version: a.version}
	pages := map[string]string{"forebay.yaml.5": manual.reference(string(text))}
	var add func(*cobra.Command)
	add = func(c *cobra.Command) {
		pages[strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"] = manual.command(c)
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				add(sub)
			}
		}
	}
	add(root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(page), 0o644); err != nil {
			return err
		}
	}
	return nil
}

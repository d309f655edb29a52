package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/appliance/config"
)

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: exactly()}
	cmd.RunE = func(*cobra.Command, []string) error {
		v := buildVersion(a.version)
		return a.print(v, func(w io.Writer) { row(w, fmt.Sprintf("forebay %s (%s, %s)", v.Version, v.Go, v.Platform)) })
	}
	return cmd
}

func (a *app) configCommand() *cobra.Command {
	return a.group("config", "Check, show, reload and take back the configuration", a.configCheckCommand(), a.configShowCommand(),
		a.configReloadCommand(), a.configHistoryCommand(), a.configDiffCommand(), a.configRollbackCommand())
}

// checked is the answer of config check.
type checked struct {
	OK       bool             `json:"ok"`
	Files    []string         `json:"files"`
	Problems []config.Problem `json:"problems"`
	Warnings []string         `json:"warnings"`
}

func (a *app) configCheckCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "check [FILE]", Short: "Report every mistake in a configuration", Args: atMostOne("FILE"),
		Long: `Report every mistake in a configuration and what stands beside it. Without FILE it
is the one that ` + "`serve`" + ` would use.`}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		file := config.Path(a.configPath, a.environ)
		if len(args) > 0 {
			file = args[0]
		}
		c, sources, err := config.Load(file, a.environ)
		if err == nil {
			err = c.ReadSecrets(sources)
		}
		if err == nil {
			err = appliance.Check(c, sources)
		}
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			return err
		}
		if err != nil {
			if a.output == "json" {
				if err := a.printJSON(checked{Files: nonNil(sources.Files), Problems: problems, Warnings: []string{}}, indented); err != nil {
					return err
				}
				return fmt.Errorf("%s has %d problems", file, len(problems))
			}
			return err
		}
		result := checked{OK: true, Files: sources.Files, Problems: []config.Problem{}, Warnings: nonNil(config.Warnings(c, sources))}
		return a.print(result, func(w io.Writer) {
			for _, name := range result.Files {
				row(w, "read", name)
			}
			for _, text := range result.Warnings {
				row(w, "warning", text)
			}
			row(w, "ok", file)
		})
	}
	return cmd
}

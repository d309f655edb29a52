package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/appliance/config"
)

// service is the appliance as this command sees it.
type service interface {
	// Run serves until ctx ends, then stops gracefully.
	Run(ctx context.Context) error
	// Close releases what is left; Run has returned.
	Close() error
}

func (a *app) serveCommand() *cobra.Command {
	var dev bool
	cmd := &cobra.Command{Use: "serve", Short: "Run the appliance", Args: exactly(),
		Long: `Run the appliance until SIGINT or SIGTERM, then stop gracefully; a second signal
exits at once, and loses nothing that was accepted.

With --dev it needs no configuration: it serves on loopback with the embedded
store, keeps its data under ./data (or $FOREBAY_DATA_DIR), makes an account with
a key, and prints how to send the first message.`}
	cmd.Flags().BoolVar(&dev, "dev", false, "serve on loopback from ./data, with an account ready to use")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dev && a.configPath != "" {
			return usagef("forebay serve: --dev has a configuration of its own; leave out --config, or --dev")
		}
		load := func() (config.Config, config.Sources, error) {
			return config.Load(config.Path(a.configPath, a.environ), a.environ)
		}
		if dev {
			load = func() (config.Config, config.Sources, error) { return config.LoadDev(devDir, a.environ) }
		}
		c, sources, err := load()
		if err == nil {
			err = c.ReadSecrets(sources)
		}
		if err != nil {
			return err
		}
		return a.serve(cmd.Context(), c, dev)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, c config.Config, dev bool) (err error) {
	logger, err := newLogger(c.Log, a.stderr, a.env("JOURNAL_STREAM"))
	if err != nil {
		return err
	}
	slog.SetDefault(logger) // libraries that log through the standard log, too
	for _, text := range config.Warnings(c) {
		logger.Warn("configuration", "warning", text)
	}
	if keys := config.Inactive(c); len(keys) > 0 {
		logger.Warn("these keys are set and have no effect in this version", "keys", keys)
	}
	appliance.TuneRuntime(c, a.env("GOMEMLIMIT"))
	s, err := a.build(c, buildVersion(a.version).Version, logger)
	if err != nil {
		return explain(err, c)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if dev {
		return explain(a.runDev(ctx, s, c), c)
	}
	return explain(s.Run(ctx), c)
}

// explain adds what to do to the errors of a start that everyone meets.
func explain(err error, c config.Config) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: stop what listens there, or choose other ports (FOREBAY_HTTP_LISTEN=127.0.0.1:8081 FOREBAY_HTTP_OPS_LISTEN=127.0.0.1:9091)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: %s and the sockets must belong to the user that runs forebay", err, c.DataDir)
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// service is the appliance as this command sees it.
type service interface {
	// Run serves until ctx ends, then stops gracefully.
	Run(ctx context.Context) error
	// Close releases what is left; Run has returned.
	Close() error
	// Reload reads the configuration's files anew.
	Reload(ctx context.Context, source, who string) (admin.ConfigResult, error)
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
		if err == nil && dev {
			err = devToken(&c)
		}
		if err == nil {
			err = c.ReadSecrets(sources)
		}
		if err == nil {
			err = appliance.Check(c, sources)
		}
		if err != nil {
			return err
		}
		var files config.Files
		if !dev {
			files = config.Files{Path: config.Path(a.configPath, a.environ), Environ: a.environ}
		}
		return a.serve(cmd.Context(), c, files, config.Warnings(c, sources), dev)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, c config.Config, files config.Files, warnings []string, dev bool) (err error) {
	logger, err := newLogger(c.Log, a.stderr, a.env("JOURNAL_STREAM"))
	if err != nil {
		return err
	}
	slog.SetDefault(logger.Logger) // libraries that log through the standard log, too
	for _, text := range warnings {
		logger.Warn("configuration", "warning", text)
	}
	appliance.TuneRuntime(c, a.env("GOMEMLIMIT"), a.env("GOGC"))
	hangups := make(chan os.Signal, 1) // from here on a SIGHUP ends nothing
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	s, err := a.build(appliance.Options{Config: c, Version: buildVersion(a.version).Version, Logger: logger.Logger, Files: files,
		Process: func(c config.Config) error {
			appliance.LimitMemory(c, a.env("GOMEMLIMIT"))
			return logger.configure(c.Log)
		}})
	if err != nil {
		return explain(err, c)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	defer reloadOnHangup(ctx, s, hangups, logger.Logger)()
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

// reloadOnHangup reloads at each SIGHUP until what it returns is called. Signals
// that come while one is served are one more, not many.
func reloadOnHangup(ctx context.Context, s service, signals <-chan os.Signal, logger *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-signals:
				if _, err := s.Reload(ctx, config.SourceSignal, "SIGHUP"); err != nil {
					logger.Error("configuration: reload after SIGHUP", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

const (
	devDir     = "data"
	devAccount = "dev"
	devTier    = "development"
	// devPatience is how long a start may take; recovery of a large log is the
	// longest part.
	devPatience = 2 * time.Minute
)

// runDev runs the appliance and, once it is ready, prepares an account and says
// what to do with it. If that fails, the appliance is stopped.
func (a *app) runDev(ctx context.Context, s service, c config.Config) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var greeting error
	var greeter sync.WaitGroup
	greeter.Go(func() {
		if err := a.greet(ctx, c); err != nil && ctx.Err() == nil {
			greeting = fmt.Errorf("prepare the development account: %w", err)
			cancel(greeting)
		}
	})
	err := s.Run(ctx)
	cancel(nil)
	greeter.Wait()
	return errors.Join(err, greeting)
}

func (a *app) greet(ctx context.Context, c config.Config) error {
	base := apiURL(c)
	if err := untilReady(ctx, base); err != nil {
		return err
	}
	client := admin.NewSocketClient(c.AdminSocket())
	defer client.Close()
	keyFile, err := filepath.Abs(filepath.Join(c.DataDir, "dev.key"))
	if err != nil {
		return fmt.Errorf("name key file: %w", err)
	}
	if err := ensureAccount(ctx, client); err != nil {
		return err
	}
	if err := ensureKey(ctx, client, base, keyFile); err != nil {
		return err
	}
	fmt.Fprint(a.stdout, greetingText(c, base, keyFile))
	return nil
}

// devToken gives the status page's administration a token of its own, where the
// environment names none: an operator who tries it should be able to log in.
func devToken(c *config.Config) error {
	if c.HTTP.AdminTokenFile != "" || c.HTTP.OpsListen == "" {
		return nil
	}
	file := filepath.Join(c.DataDir, "admin.token")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
		if err := writePrivate(file, rand.Text()); err != nil {
			return fmt.Errorf("keep admin token: %w", err)
		}
	}
	c.HTTP.AdminTokenFile = file
	return nil
}

// writePrivate writes a line that only its owner may read. A file of its own
// first: an old one may have had another mode.
func writePrivate(file, text string) error {
	fresh, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = fresh.WriteString(text + "\n")
	if err = errors.Join(err, fresh.Close()); err == nil {
		err = os.Rename(fresh.Name(), file)
	}
	if err != nil {
		os.Remove(fresh.Name())
	}
	return err
}

// apiURL is how a client on this machine reaches the public API.
func apiURL(c config.Config) string {
	scheme := "http"
	if c.HTTP.TLSCertFile != "" {
		scheme = "https"
	}
	return scheme + "://" + reachable(c.HTTP.Listen)
}

// reachable replaces a host that means "every address".
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// untilReady polls /readyz.
func untilReady(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, devPatience, fmt.Errorf("%s/readyz did not say ready within %s; the log above says why", base, devPatience))
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if code, err := get(ctx, base+"/readyz", ""); err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// get returns the status of a GET with an optional key.
func get(ctx context.Context, url, key string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("build request: %w", err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", url, err)
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func ensureAccount(ctx context.Context, c *admin.Client) error {
	_, err := c.Account(ctx, devAccount)
	var problem *admin.Problem
	if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
		_, err = c.CreateAccount(ctx, admin.CreateAccount{ID: devAccount, Tier: devTier, Name: "Development"})
	}
	return err
}

// ensureKey keeps the key in the file if the appliance still takes it, else it
// makes a new one.
func ensureKey(ctx context.Context, c *admin.Client, base, file string) error {
	if old, err := os.ReadFile(file); err == nil {
		if code, err := get(ctx, base+"/v1/messages?limit=1", strings.TrimSpace(string(old))); err != nil || code != http.StatusUnauthorized {
			return err
		}
	}
	key, err := c.CreateKey(ctx, devAccount, admin.CreateKey{Label: "forebay serve --dev"})
	if err != nil {
		return err
	}
	if err := writePrivate(file, key.Secret); err != nil {
		return fmt.Errorf("keep key: %w", err)
	}
	return nil
}

func greetingText(c config.Config, base, keyFile string) string {
	program, err := os.Executable()
	if err != nil {
		program = "forebay"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nforebay is ready. Send a message from another terminal:\n\n")
	fmt.Fprintf(&b, "  curl -sS %s/v1/messages -H \"Authorization: Bearer $(cat %s)\" -H 'Content-Type: application/json' -d '{\"channel\":\"store\",\"body\":\"Hello, Forebay\"}'\n\n", base, shellQuote(keyFile))
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		dir = c.DataDir
	}
	fmt.Fprintf(&b, "  look at it  FOREBAY_DATA_DIR=%s %s message list\n", shellQuote(dir), shellQuote(program))
	if c.HTTP.OpsListen != "" {
		fmt.Fprintf(&b, "  watch it    http://%s/", reachable(c.HTTP.OpsListen))
		if c.HTTP.AdminTokenFile != "" {
			fmt.Fprintf(&b, "  (to log in there: the token in %s)", c.HTTP.AdminTokenFile)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "  data        %s (account %s, key in %s)\n", dir, devAccount, filepath.Base(keyFile))
	fmt.Fprintf(&b, "  stop        Ctrl-C here\n\n")
	return b.String()
}

// shellQuote quotes a path for a POSIX shell where that is needed.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

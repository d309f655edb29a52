package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
)

// Config returns the configuration that runs.
func (c *Client) Config(ctx context.Context) (r RunningConfig, err error) {
	err = c.call(ctx, http.MethodGet, "/config", nil, &r)
	return r, err
}

// ReloadConfig makes the appliance read its files anew and waits for what comes
// of it. That it was rejected or failed is in the result, and no error.
func (c *Client) ReloadConfig(ctx context.Context) (ConfigResult, error) {
	return c.changeConfig(ctx, "/config/reload", nil)
}

// RollbackConfig goes back to a version of the history. See ReloadConfig.
func (c *Client) RollbackConfig(ctx context.Context, version uint64) (ConfigResult, error) {
	return c.changeConfig(ctx, "/config/rollback", RollbackConfig{Version: version})
}

// CheckConfig says what a reload would do. See Configs.CheckConfig.
func (c *Client) CheckConfig(ctx context.Context, yaml *string) (ConfigResult, error) {
	return c.changeConfig(ctx, "/config/check", CheckConfig{YAML: yaml})
}

// ConfigHistory lists the versions, newest first.
func (c *Client) ConfigHistory(ctx context.Context) ([]ConfigVersion, error) {
	var list ConfigHistory
	err := c.call(ctx, http.MethodGet, "/config/history", nil, &list)
	return list.Data, err
}

// ConfigVersion returns one version, with its text.
func (c *Client) ConfigVersion(ctx context.Context, version uint64) (v ConfigVersion, err error) {
	err = c.call(ctx, http.MethodGet, "/config/history/"+strconv.FormatUint(version, 10), nil, &v)
	return v, err
}

// DiffConfig says what changes from one version to another.
func (c *Client) DiffConfig(ctx context.Context, from, to uint64) (d ConfigDiff, err error) {
	values := url.Values{"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(to, 10)}}
	err = c.call(ctx, http.MethodGet, withQuery("/config/diff", values), nil, &d)
	return d, err
}

// changeConfig takes results of every status: their kind tells them from refusals.
func (c *Client) changeConfig(ctx context.Context, path string, body any) (r ConfigResult, err error) {
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "application/json" {
		return r, c.refusal(resp)
	}
	if err := json.UnmarshalRead(io.LimitReader(resp.Body, maxAnswer), &r); err != nil {
		return r, fmt.Errorf("decode answer to POST %s: %w", path, err)
	}
	return r, nil
}

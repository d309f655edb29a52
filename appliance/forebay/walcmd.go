package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"forebay/appliance"
	"forebay/httpapi/admin"
	"forebay/sink"
	"forebay/wal"
	"forebay/wal/message"
)

func (a *app) walCommand() *cobra.Command {
	return a.group("wal", "Check and rescue the log of a stopped appliance", a.walVerifyCommand(), a.walSalvageCommand())
}

// finding is a wal.Finding as JSON.
type finding struct {
	Kind  string `json:"kind"`
	Where string `json:"where"`
	Seq   uint64 `json:"seq,omitzero"`
	ID    string `json:"id,omitzero"`
	// Of a lost message that has no ID here: those of the nearest ones that do.
	After  string `json:"after_id,omitzero"`
	Before string `json:"before_id,omitzero"`
	Stored string `json:"stored,omitzero"` // its status in the store, if it is there
	Text   string `json:"text"`
}

// logReport is the answer of wal verify, wal salvage and restore.
type logReport struct {
	Directory  string    `json:"directory"`
	Node       uint16    `json:"node"`
	LastSeq    uint64    `json:"last_seq"`
	Waiting    int64     `json:"waiting"`
	Parked     int64     `json:"parked"`
	Complete   uint64    `json:"complete"`
	Findings   []finding `json:"findings"`
	Grave      int       `json:"grave"` // findings that keep the log from opening
	Lost       int       `json:"lost,omitzero"`
	InStore    int       `json:"in_store,omitzero"`    // of the lost ones: final in the store, so not lost
	StoreError string    `json:"store_error,omitzero"` // why the store could not be asked
	Quarantine string    `json:"quarantine,omitzero"`
}

func (r *logReport) add(f wal.Finding) {
	text := func(id message.ID) string {
		if id.IsZero() {
			return ""
		}
		return id.String()
	}
	r.Findings = append(r.Findings, finding{Kind: string(f.Kind), Where: f.Where, Seq: f.Seq, ID: text(f.ID), After: text(f.After), Before: text(f.Before), Text: f.Text})
}

// askStore looks the lost numbers up in the store, which may have them, and then
// knows their ids.
func (r *logReport) askStore(ask func(seqs []uint64) ([]sink.Found, error)) {
	lost := map[uint64]*finding{}
	for i, f := range r.Findings {
		if f.Kind == string(wal.FindMissing) && f.Seq != 0 {
			lost[f.Seq] = &r.Findings[i]
		}
	}
	if len(lost) == 0 {
		return
	}
	found, err := ask(slices.Sorted(maps.Keys(lost)))
	if err != nil {
		r.StoreError = oneLine(err.Error())
	}
	for _, m := range found {
		f := lost[m.Seq]
		f.ID, f.After, f.Before, f.Stored = m.ID.String(), "", "", m.Status.String()
		if f.Text = "the store has it as " + f.Stored + ", and nothing will deliver it"; m.Status.Final() {
			f.Text = "not lost: the store has it as " + f.Stored
			r.InStore++
		}
	}
}

// name is what is known of the id of the message of a finding.
func (f finding) name() string {
	switch {
	case f.ID != "":
		return f.ID
	case f.After != "" && f.Before != "":
		return f.After + " < id < " + f.Before
	case f.After != "":
		return "id > " + f.After
	case f.Before != "":
		return "id < " + f.Before
	}
	return ""
}

func (r *logReport) summarize(s wal.Summary) {
	r.Node, r.LastSeq, r.Waiting, r.Parked, r.Complete = s.Node, s.LastSeq, s.Waiting, s.Parked, s.Complete
	r.Grave, r.Lost, r.Quarantine = s.Grave, s.Lost, s.Quarantine
	r.Findings = nonNil(r.Findings)
}

func (a *app) printReport(r logReport) error {
	return a.print(r, func(w io.Writer) {
		for _, f := range r.Findings {
			number := ""
			if f.Seq != 0 {
				number = fmt.Sprintf("number %d", f.Seq)
			}
			row(w, f.Kind, f.Where, f.Text, f.name(), number)
		}
		row(w, "log", fmt.Sprintf("%s, node %d", r.Directory, r.Node))
		row(w, "last number", r.LastSeq)
		row(w, "complete", r.Complete)
		row(w, "waiting", fmt.Sprintf("%d, of these %d parked", r.Waiting, r.Parked))
		row(w, "findings", fmt.Sprintf("%d, of these %d grave", len(r.Findings), r.Grave))
		if r.Quarantine != "" {
			row(w, "damaged log", r.Quarantine)
			row(w, "lost", r.Lost-r.InStore)
			if r.InStore > 0 {
				row(w, "not lost", fmt.Sprintf("%d, which are final in the store", r.InStore))
			}
			if r.StoreError != "" {
				row(w, "store", "could not be asked for the lost ones: "+r.StoreError)
			}
		}
	})
}

// logDir is the directory to look at: the argument, else that of the configuration.
func (a *app) logDir(args []string) (string, error) {
	dir := ""
	if len(args) == 1 {
		dir = args[0]
	} else {
		c, _, err := a.config()
		if err != nil {
			return "", err
		}
		dir = c.LogDir()
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is no directory with a log; name one, or the configuration with --config", dir)
	}
	return dir, nil
}

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s wants at most one %s, got %d arguments", cmd.CommandPath(), name, len(args))
		}
		return nil
	}
}

func (a *app) walVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "verify [DIR]", Short: "Read the whole log and report what is damaged; changes nothing", Args: atMostOne("DIR")}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		report := logReport{Directory: dir}
		summary, err := wal.Verify(dir, report.add)
		if err != nil {
			return fmt.Errorf("verify log: %w", err)
		}
		report.summarize(summary)
		if err := a.printReport(report); err != nil {
			return err
		}
		if summary.Grave > 0 {
			return fmt.Errorf("the log does not open for what was found (%d); `forebay wal salvage` rebuilds it from what can be read and keeps the damaged one", summary.Grave)
		}
		return nil
	}
	return cmd
}

func (a *app) walSalvageCommand() *cobra.Command {
	var quarantine string
	cmd := &cobra.Command{Use: "salvage [DIR]", Short: "Rebuild a damaged log from what can be read, and keep the damaged one", Args: atMostOne("DIR")}
	cmd.Flags().StringVar(&quarantine, "quarantine", "", "`DIR` to move the damaged log to (default: beside it)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		if quarantine == "" {
			quarantine = filepath.Clean(dir) + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
		}
		report := logReport{Directory: dir}
		summary, err := wal.Salvage(dir, quarantine, report.add)
		if errors.Is(err, wal.ErrNothingToSalvage) {
			report.summarize(summary)
			return a.print(report, func(w io.Writer) { row(w, "nothing to salvage: the log is whole") })
		}
		if err != nil {
			return fmt.Errorf("salvage log: %w", err)
		}
		report.summarize(summary)
		if len(args) == 0 { // else whose log that is, and with which store, is not known
			report.askStore(func(seqs []uint64) ([]sink.Found, error) {
				c, sources, err := a.config()
				if err == nil {
					err = c.ReadDatabaseURL(sources)
				}
				if err != nil {
					return nil, err
				}
				return appliance.Stored(cmd.Context(), c, summary.Node, seqs)
			})
		}
		return a.printReport(report)
	}
	return cmd
}

func (a *app) backupCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "backup FILE", Short: "Write a backup of accounts, log and embedded store while the appliance runs; - is standard output", Args: exactly("FILE")}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE")
	cmd.RunE = a.withClient(func(ctx context.Context, c *admin.Client, args []string) error {
		if args[0] == "-" {
			_, err := c.Backup(ctx, a.stdout)
			return err
		}
		size, err := backupTo(ctx, c, args[0], force)
		if err != nil {
			return err
		}
		return a.print(map[string]any{"file": args[0], "bytes": size}, func(w io.Writer) { row(w, fmt.Sprintf("%s: %d bytes", args[0], size)) })
	})
	return cmd
}

// backupTo writes beside the file and renames, so that the name never stands
// for half a backup.
func backupTo(ctx context.Context, c *admin.Client, name string, force bool) (int64, error) {
	if _, err := os.Lstat(name); err == nil && !force {
		return 0, fmt.Errorf("%s exists; choose another name or add --force", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("create backup: %w", err)
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	defer f.Close()
	size, err := c.Backup(ctx, f)
	if err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync backup: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return 0, fmt.Errorf("name backup: %w", err)
	}
	return size, syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync backup's directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync backup's directory: %w", err)
	}
	return nil
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "restore FILE", Short: "Make the data directory from a backup, before the first start", Args: exactly("FILE")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, sources, err := a.config()
		if err == nil {
			err = c.ReadDatabaseURL(sources)
		}
		if err != nil {
			return err
		}
		summary, err := appliance.Restore(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		report := logReport{Directory: c.LogDir()}
		report.summarize(summary)
		return a.printReport(report)
	}
	return cmd
}

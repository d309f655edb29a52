package embedded

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"forebay/wal/message"
)

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, err := Open(Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var batch []message.Record
	for i := range uint64(500) {
		batch = append(batch, message.Record{ID: message.NewID(1_700_000_000_000+i, 0, 1, message.Normal, i), Seq: i + 1,
			Message: message.Message{Account: "acme", Channel: message.ChannelStore, Priority: message.Normal, Body: "body"},
			State:   message.State{Status: message.Accepted}})
	}
	if _, err := s.Insert(ctx, batch); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := s.Backup(ctx, &backup); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if err := Restore(bytes.NewReader(backup.Bytes()), dir); err != nil {
		t.Fatal(err)
	}
	if err := Restore(bytes.NewReader(backup.Bytes()), dir); err == nil {
		t.Error("restored over a store")
	}
	r, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, err := s.List(ctx, message.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.List(ctx, message.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got.Records) != 500 {
		t.Errorf("%d records, %s", len(got.Records), diff)
	}
	if err := Restore(bytes.NewReader(backup.Bytes()[:backup.Len()/2]), filepath.Join(t.TempDir(), "cut")); err == nil {
		t.Error("restored from half a backup")
	}
}

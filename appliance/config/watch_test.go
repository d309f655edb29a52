package config

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// watched is a Watcher at work over a directory with forebay.yaml in it. Each
// change it reports is what the file held then.
type watched struct {
	dir, path string
	reported  chan string
}

func startWatching(t *testing.T, dir string, change func(*Watcher)) *watched {
	t.Helper()
	w := &watched{dir: dir, path: filepath.Join(dir, "forebay.yaml"), reported: make(chan string, 1000)}
	watcher := &Watcher{Quiet: 30 * time.Millisecond, Poll: time.Hour,
		Files:       func() []string { return Inputs(w.path, nil, defaults()) },
		Directories: func() []string { return Directories(w.path, Inputs(w.path, nil, defaults())) },
		Changed: func(context.Context) {
			content, _ := os.ReadFile(w.path)
			w.reported <- string(content)
		}}
	if change != nil {
		change(watcher)
	}
	watcher.Start()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = watcher.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// until waits for a report of that content and returns how many came before it.
func (w *watched) until(t *testing.T, content string) (before int) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-w.reported:
			if got == content {
				return before
			}
			before++
		case <-timeout:
			t.Fatalf("the change to %q was not noticed", content)
		}
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Each way in which people and programs change files is noticed, twice: what
// watches a file alone is deaf after the first.
func TestWatcherNotices(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, dir, content string){
		"in place": func(t *testing.T, dir, content string) { put(t, filepath.Join(dir, "forebay.yaml"), content) },
		"renamed over, as vim does": func(t *testing.T, dir, content string) {
			path := filepath.Join(dir, "forebay.yaml")
			do(t, os.Rename(path, path+"~"))
			put(t, path, content)
			do(t, os.Remove(path+"~"))
		},
		"moved into place": func(t *testing.T, dir, content string) {
			put(t, filepath.Join(dir, ".new"), content)
			do(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "forebay.yaml")))
		},
		"the directory replaced": func(t *testing.T, dir, content string) {
			other := dir + ".new"
			do(t, os.Mkdir(other, 0o700))
			put(t, filepath.Join(other, "forebay.yaml"), content)
			do(t, os.Rename(dir, dir+".old"))
			do(t, os.Rename(other, dir))
			do(t, os.RemoveAll(dir+".old"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "etc")
			do(t, os.Mkdir(dir, 0o700))
			put(t, filepath.Join(dir, "forebay.yaml"), "node: 1")
			w := startWatching(t, dir, func(w *Watcher) {
				if name == "the directory replaced" {
					w.Poll = 200 * time.Millisecond // between the two moves there is nothing to watch
				}
			})
			for round := range 3 {
				content := fmt.Sprintf("node: %d", 10+round)
				change(t, dir, content)
				w.until(t, content)
			}
		})
	}
}

// Kubernetes mounts a directory whose files are links through ..data, and moves
// that link: the file's own name never appears in an event.
func TestWatcherKubernetes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(n int) {
		name := fmt.Sprintf("..v%d", n)
		do(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		put(t, filepath.Join(dir, name, "forebay.yaml"), fmt.Sprintf("node: %d", n))
		do(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		do(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version(1)
	do(t, os.Symlink("..data/forebay.yaml", filepath.Join(dir, "forebay.yaml")))
	w := startWatching(t, dir, nil)
	for n := 2; n < 5; n++ {
		version(n)
		do(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..v%d", n-1))))
		w.until(t, fmt.Sprintf("node: %d", n))
	}
}

// Drop-ins and overlays count, also in a directory that comes to be later.
func TestWatcherDropIns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "forebay.yaml"), "node: 1")
	w := startWatching(t, dir, nil)
	dropIn := filepath.Join(dir, "conf.d", "10.yaml")
	do(t, os.Mkdir(filepath.Dir(dropIn), 0o700))
	put(t, dropIn, "node: 2")
	w.until(t, "node: 1")
	put(t, dropIn, "node: 3")
	w.until(t, "node: 1")
	put(t, filepath.Join(dir, "forebay.production.yaml"), "node: 4")
	w.until(t, "node: 1")
}

// A burst of writes is few changes, and its end is not missed. What is written
// again with the same content, or is no configuration, is none.
func TestWatcherBursts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "forebay.yaml")
	put(t, path, "node: 1")
	w := startWatching(t, dir, func(w *Watcher) { w.Quiet = 100 * time.Millisecond })
	const writes = 300
	for n := range writes {
		put(t, path, fmt.Sprintf("node: %d", n))
	}
	last := fmt.Sprintf("node: %d", writes-1)
	if before := w.until(t, last); before > writes/10 {
		t.Errorf("%d reports for one burst of %d writes", before+1, writes)
	}
	put(t, path, last)
	put(t, filepath.Join(dir, "notes.txt"), "x")
	put(t, path, "node: 5000")
	if before := w.until(t, "node: 5000"); before != 0 {
		t.Errorf("%d reports of no change", before)
	}
}

// Without inotify changes are found by looking.
func TestWatcherDeaf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "forebay.yaml")
	put(t, path, "node: 1")
	w := startWatching(t, dir, func(w *Watcher) { w.Deaf, w.Poll = true, 50*time.Millisecond })
	put(t, path, "node: 2")
	w.until(t, "node: 2")
}

// A change that comes while one is being taken up is not lost.
func TestWatcherChangeWhileChanging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "forebay.yaml")
	put(t, path, "node: 1")
	var once sync.Once
	w := startWatching(t, dir, func(w *Watcher) {
		report := w.Changed
		w.Changed = func(ctx context.Context) {
			report(ctx)
			once.Do(func() { put(t, path, "node: 3") })
		}
	})
	put(t, path, "node: 2")
	w.until(t, "node: 2")
	w.until(t, "node: 3")
}

// A change that names a file elsewhere makes that one watched, too: at once, not
// when the directories are looked at next.
func TestWatcherFollowsNewNames(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	path, secret := filepath.Join(dir, "forebay.yaml"), filepath.Join(elsewhere, "token")
	put(t, path, "node: 1")
	put(t, secret, "first")
	c := func() Config {
		c := defaults()
		if content, err := os.ReadFile(path); err == nil && string(content) == "with a token" {
			c.HTTP.AdminTokenFile = secret
		}
		return c
	}
	reports := make(chan string, 10)
	w := startWatching(t, dir, func(w *Watcher) {
		w.Files = func() []string { return Inputs(path, nil, c()) }
		w.Directories = func() []string { return Directories(path, w.Files()) }
		w.Changed = func(context.Context) {
			content, _ := os.ReadFile(secret)
			reports <- string(content)
		}
	})
	w.reported = reports
	put(t, path, "with a token")
	w.until(t, "first")
	put(t, secret, "second")
	w.until(t, "second")
}

// Package web is the status page: files that are served as they are, with
// nothing to build and nothing fetched from elsewhere.
//
// The page (static/) talks to the routes beside it alone: /events for the live
// picture, /history.json for the last hour, and /admin/v1 for what an operator
// does after showing the admin token, which stays in the page's memory and is sent
// with each of these requests by hand. So there is no cookie that another site could use.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var static embed.FS

// policy lets the page use its own files and routes, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

type file struct {
	body []byte
	kind string
	etag string
}

// Handler serves the page at / and its files under /assets/. A browser asks
// each time whether a file has changed, so that a page never meets the files of
// another version.
func Handler() http.Handler {
	files := map[string]file{}
	names, err := fs.Glob(static, "static/*")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, name := range names {
		body, err := static.ReadFile(name)
		if err != nil {
			panic(err) // it is part of the binary
		}
		sum := sha256.Sum256(body)
		f := file{body: body, kind: mime.TypeByExtension(path.Ext(name)), etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
		at := "/assets/" + strings.TrimPrefix(name, "static/")
		if at == "/assets/index.html" {
			at = "/"
		}
		files[at] = f
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.kind)
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", f.etag)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
	})
}

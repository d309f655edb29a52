package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxSecret bounds a secret's file.
const maxSecret = 64 << 10

// ReadSecrets reads what the keys ending in _file name, for the parts that are
// in use, into the fields beside them, and checks that the certificate and key
// of the public API fit together. All problems are returned at once, as
// Problems. It may be called again to read changed files.
func (c *Config) ReadSecrets(s Sources) error {
	var found Problems
	read := func(key, path string, into *Secret) {
		if path == "" {
			return
		}
		text, err := readSecret(path)
		if err != nil {
			found.add("", key, "%v", err)
			return
		}
		*into = Secret(text)
	}
	read("http.admin_token_file", c.HTTP.AdminTokenFile, &c.HTTP.AdminToken)
	c.readDatabaseURL(&found)
	if w := &c.Channels.WhatsApp; w.Enabled {
		read("channels.whatsapp.access_token_file", w.AccessTokenFile, &w.AccessToken)
		read("channels.whatsapp.app_secret_file", w.AppSecretFile, &w.AppSecret)
		read("channels.whatsapp.verify_token_file", w.VerifyTokenFile, &w.VerifyToken)
	}
	if e := &c.Channels.Email; e.Enabled {
		read("channels.email.password_file", e.PasswordFile, &e.Password)
	}
	if c.HTTP.TLSCertFile != "" {
		c.HTTP.CertificateDigest = digestFiles(c.HTTP.TLSCertFile, c.HTTP.TLSKeyFile)
		if _, err := tls.LoadX509KeyPair(c.HTTP.TLSCertFile, c.HTTP.TLSKeyFile); err != nil {
			found.add("", "http.tls_cert_file", "cannot be used with http.tls_key_file: %v", err)
		}
	}
	return found.locate(s).err()
}

// ReadDatabaseURL is ReadSecrets for what tells of the database alone: for a
// command that talks to it and needs none of the other secrets.
func (c *Config) ReadDatabaseURL(s Sources) error {
	var found Problems
	c.readDatabaseURL(&found)
	return found.locate(s).err()
}

func (c *Config) readDatabaseURL(found *Problems) {
	if c.Database.URLFile == "" {
		return
	}
	text, err := readSecret(c.Database.URLFile)
	if err != nil {
		found.add("", "database.url_file", "%v", err)
		return
	}
	c.Database.URL = DSN(text)
	if wrong := c.Database.URL.check(); wrong != "" {
		found.add("", "database.url_file", "what %s holds %s", c.Database.URLFile, wrong)
	}
}

// readSecret returns the file's text without the line end that editors add.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", secretError(path, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", secretError(path, err)
	}
	text := strings.TrimRight(string(content), "\r\n")
	switch {
	case text == "":
		return "", fmt.Errorf("%s is empty; put the secret into it", path)
	case len(content) > maxSecret:
		return "", fmt.Errorf("%s has more than %d bytes and can hardly be a secret", path, maxSecret)
	case strings.ContainsAny(text, "\r\n\x00"):
		return "", fmt.Errorf("%s has more than one line; put the secret alone into it", path)
	}
	return text, nil
}

func secretError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist; create it with the secret in it", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be read by this user; change its owner or run as the service's user", path)
	}
	return fmt.Errorf("read secret: %w", err)
}

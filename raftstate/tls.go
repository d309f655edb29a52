package raftstate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles are PEM files: this node's certificate and key, and the authorities
// that other nodes' certificates must come from. A certificate is node N's if it
// is valid for the name that NodeName gives N. They are read again when they
// have changed; a version that cannot be read leaves the one before in use.
type TLSFiles struct{ Cert, Key, CA string }

func (f TLSFiles) set() bool { return f != TLSFiles{} }

// Check reads the files and says what is wrong with them.
func (f TLSFiles) Check() error {
	_, err := loadCredentials(f, nil)
	return err
}

// NodeName is the DNS name in the certificate of a node.
func NodeName(node uint16) string { return fmt.Sprintf("node-%d.forebay", node) }

// credentials are TLSFiles as they last could be read.
type credentials struct {
	files TLSFiles
	log   *slog.Logger

	mu      sync.Mutex // guards all below
	stamps  [3]string  // of the files when they were read
	pair    tls.Certificate
	trusted *x509.CertPool
}

func loadCredentials(files TLSFiles, log *slog.Logger) (*credentials, error) {
	c := &credentials{files: files, log: log}
	if err := c.loadLocked(c.look()); err != nil {
		return nil, err
	}
	return c, nil
}

// look tells one version of the files from another.
func (c *credentials) look() (stamps [3]string) {
	for i, path := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		info, err := os.Stat(path)
		if err != nil {
			stamps[i] = err.Error()
			continue
		}
		stamps[i] = fmt.Sprint(info.ModTime().UnixNano(), info.Size())
	}
	return stamps
}

func (c *credentials) loadLocked(stamps [3]string) error {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("load the node's certificate: %w", err)
	}
	authorities, err := os.ReadFile(c.files.CA)
	if err != nil {
		return fmt.Errorf("load the authorities of the cluster: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authorities) {
		return fmt.Errorf("load the authorities of the cluster: %s has no certificate", c.files.CA)
	}
	c.pair, c.trusted, c.stamps = pair, trusted, stamps
	return nil
}

func (c *credentials) current() (tls.Certificate, *x509.CertPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamps := c.look(); stamps != c.stamps {
		if err := c.loadLocked(stamps); err != nil {
			c.log.Error("raft: changed certificates cannot be read, the ones before stay in use", "error", err)
			c.stamps = stamps // said once, not with each connection
		} else {
			c.log.Info("raft: certificates read again")
		}
	}
	return c.pair, c.trusted
}

// ends is when the node's certificate does.
func (c *credentials) ends() time.Time {
	pair, _ := c.current()
	return pair.Leaf.NotAfter
}

func (c *credentials) server() *tls.Config {
	pair, trusted := c.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
		SessionTicketsDisabled: true, // a resumed session would skip a changed CA
	}
}

func (c *credentials) client(node uint16) *tls.Config {
	pair, trusted := c.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		RootCAs: trusted, ServerName: NodeName(node),
	}
}

var errWrongNode = errors.New("the certificate is another node's")

// checkPeer wants the certificate that the peer has shown to be node's.
func checkPeer(conn *tls.Conn, node uint16) error {
	shown := conn.ConnectionState().PeerCertificates
	if len(shown) == 0 || shown[0].VerifyHostname(NodeName(node)) != nil {
		return fmt.Errorf("node %d: %w", node, errWrongNode)
	}
	return nil
}

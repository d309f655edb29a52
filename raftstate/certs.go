package raftstate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// How long certificates are good for, and how far clocks may be apart.
const (
	authorityYears = 10
	nodeDays       = 825
	clockSkew      = time.Hour
)

// Names of the files that MakeCertificates writes.
const (
	AuthorityFile    = "ca.pem"
	AuthorityKeyFile = "ca-key.pem"
)

// NodeFiles names the certificate and the key of a node.
func NodeFiles(node uint16) (cert, key string) {
	return fmt.Sprintf("node-%d.pem", node), fmt.Sprintf("node-%d-key.pem", node)
}

// MakeCertificates makes a certificate for each node in dir, and the authority
// that they come from if dir has none. A node's old certificate is replaced;
// nodes that use it read the new one by themselves. Keys are readable by their
// owner alone. It returns the paths that it wrote.
//
// The authority's key is needed to make more, and by no node: it belongs in a
// safe place and not on one of them.
func MakeCertificates(dir string, nodes []uint16) (written []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of certificates: %w", err)
	}
	authority, key, made, err := openAuthority(dir)
	if err != nil {
		return nil, err
	}
	written = made
	for _, node := range nodes {
		certFile, keyFile := NodeFiles(node)
		template := certificate(NodeName(node), nodeDays)
		template.DNSNames = []string{NodeName(node)}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		nodeKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return written, fmt.Errorf("make a key for node %d: %w", node, err)
		}
		made, err := writePair(dir, certFile, keyFile, template, authority, nodeKey, key)
		if err != nil {
			return written, fmt.Errorf("make a certificate for node %d: %w", node, err)
		}
		written = append(written, made...)
	}
	return written, nil
}

// openAuthority reads the authority in dir, or makes it.
func openAuthority(dir string) (*x509.Certificate, *ecdsa.PrivateKey, []string, error) {
	certPath, keyPath := filepath.Join(dir, AuthorityFile), filepath.Join(dir, AuthorityKeyFile)
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	var written []string
	if errors.Is(err, fs.ErrNotExist) {
		if written, err = makeAuthority(dir); err == nil {
			pair, err = tls.LoadX509KeyPair(certPath, keyPath)
		}
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the authority in %s: %w", dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, nil, fmt.Errorf("read the authority in %s: its key is not ECDSA", dir)
	}
	return pair.Leaf, key, written, nil
}

func makeAuthority(dir string) ([]string, error) {
	for _, name := range []string{AuthorityFile, AuthorityKeyFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return nil, fmt.Errorf("%s is there without its other half: put it back, or move it away", name)
		}
	}
	template := certificate("Forebay cluster", authorityYears*365)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return writePair(dir, AuthorityFile, AuthorityKeyFile, template, template, key, key)
}

func certificate(name string, days int) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().AddDate(0, 0, days)}
}

// writePair writes the key first: a node that reads between the two has a pair
// that does not fit, and keeps the one before.
func writePair(dir, certFile, keyFile string, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]string, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var written []string
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{{keyFile, "PRIVATE KEY", private, 0o600}, {certFile, "CERTIFICATE", der, 0o644}} {
		path := filepath.Join(dir, f.name)
		if err := replaceFile(path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	return written, nil
}

func replaceFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

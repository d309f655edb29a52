package appliance

import (
	"crypto/tls"
	"fmt"

	"forebay/appliance/config"
)

// loadCertificate loads what the public API shows to its clients; nil: it speaks
// plain HTTP.
func loadCertificate(h config.HTTP) (*tls.Config, error) {
	if h.TLSCertFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(h.TLSCertFile, h.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("load the certificate (http.tls_cert_file, http.tls_key_file): %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

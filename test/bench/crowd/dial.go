package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	agentclient "github.com/rollcall-dev/rollcall/internal/agent/client"
)

const (
	dialTimeout = 10 * time.Second
	// patience with an answer. One that takes longer is a failure.
	patience = 30 * time.Second
)

// dialer makes connections as agents do: TLS 1.2, mutual.
type dialer struct {
	source string
	roots  *x509.CertPool
}

// trustFile takes the CA in a file.
func (d *dialer) trustFile(path string) error {
	d.roots = x509.NewCertPool()
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !d.roots.AppendCertsFromPEM(b) {
		return fmt.Errorf("%s has no certificate", path)
	}
	return nil
}

// trustGateway takes the CA that a gateway's trust names. Who serves it does not matter here.
func (d *dialer) trustGateway(address string) error {
	c := agentclient.NewTrustClient(agentclient.Server{URL: &url.URL{Scheme: "https", Host: address}, AgentVersion: version})
	defer c.Close()
	bundles, err := c.After(context.Background(), 0)
	if err != nil {
		return fmt.Errorf("ask for trust: %w", err)
	}
	for _, b := range bundles {
		var trust agentv1.TrustBundle
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b.GetPayload(), &trust); err != nil {
			return fmt.Errorf("read the trust: %w", err)
		}
		for _, der := range trust.GetServerCa() {
			ca, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("read the trust: %w", err)
			}
			d.roots.AddCert(ca)
		}
	}
	if len(bundles) == 0 {
		return errors.New("the gateway has no trust")
	}
	return nil
}

func (d *dialer) config(a *agent, resume bool) *tls.Config {
	at := &a.fresh
	if resume {
		at = &a.resuming
	}
	if *at != nil {
		return *at
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		NextProtos:       []string{"http/1.1"},
		ServerName:       "127.0.0.1",
		RootCAs:          d.roots,
		Certificates:     []tls.Certificate{a.certificate},
	}
	if resume {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	*at = c
	return c
}

func (d *dialer) dial(a *agent, address string, resume bool) (*tls.Conn, error) {
	n := net.Dialer{Timeout: dialTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(d.source)}}
	raw, err := n.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, d.config(a, resume))
	_ = c.SetDeadline(time.Now().Add(patience)) // fails on a closed connection only, which the handshake finds out
	if err := c.Handshake(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, nil
}

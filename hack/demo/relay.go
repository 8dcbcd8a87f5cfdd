package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/relay"
)

// Files of the relay, in .run/relay: what it presents when it ends TLS, where it is steered, and what a person has asked it to do.
const (
	relayCertificate = "tls.crt"
	relayKey         = "tls.key"
	relayControl     = "control.sock"
	relayMode        = "mode"
)

func (d *demo) inRelay(name string) string { return d.in("relay", name) }

// relay puts a relay where agents dial, which passes everything through until a person says otherwise.
func (d *demo) relay(ctx context.Context, k *keeper, gateway string) error {
	if err := os.MkdirAll(d.in("relay"), 0o700); err != nil {
		return err
	}
	// what was asked of an earlier run is no news to anybody: each begins with a network that is well
	if err := os.Remove(d.inRelay(relayMode)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return k.keep(ctx, "relay", func(ctx context.Context) (*local.Process, error) {
		if err := d.certifyRelay(ctx); err != nil {
			return nil, err
		}
		mode, err := os.ReadFile(d.inRelay(relayMode))
		if errors.Is(err, fs.ErrNotExist) {
			mode, err = []byte("pass"), nil
		}
		if err != nil {
			return nil, err
		}
		p, err := local.Start("relay", d.in("log", "relay.log"), filepath.Join(d.bin, "rollcall-relay"),
			"--listen="+d.address(), "--gateway="+gateway, "--mode="+string(mode),
			"--certificate="+d.inRelay(relayCertificate), "--key="+d.inRelay(relayKey), "--control="+d.inRelay(relayControl),
			"--agents="+d.in("agent"), "--agents="+d.in("sim-*", "state", "*"))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return p, p.WaitFor(ctx, func(ctx context.Context) error {
			_, err := relay.Ask(ctx, d.inRelay(relayControl))
			return err
		})
	})
}

// certifyRelay signs what the relay presents. The server CA's key stays in the cluster and in this process: the relay gets a leaf of it.
func (d *demo) certifyRelay(ctx context.Context) error {
	ca, err := local.ServerCA(ctx, d.admin)
	if err != nil {
		return err
	}
	c, err := relay.Sign(ca, "127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(d.inRelay(relayCertificate), chain, 0o600); err != nil {
		return err
	}
	return os.WriteFile(d.inRelay(relayKey), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
}

// misbehave tells the running demo's relay what to do from now on.
func (d *demo) misbehave(ctx context.Context, name string) error {
	mode, err := relay.ParseMode(name)
	if err != nil {
		return fmt.Errorf("make block MODE=...: %w", err)
	}
	if _, running := d.running(); !running {
		return errors.New("nothing runs here: make run first, in another terminal")
	}
	if err := relay.Switch(ctx, d.inRelay(relayControl), mode); err != nil {
		return fmt.Errorf("%w; its last words in .run/log/relay.log:\n%s", err, local.Tail(d.in("log", "relay.log"), 3))
	}
	// for the relay that is started should this one end
	if err := os.WriteFile(d.inRelay(relayMode), []byte(mode.String()), 0o600); err != nil {
		return err
	}
	d.say("%s", mode.Sentence())
	return nil
}

package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// token is an enrolment token.
type token struct {
	uid          string
	key          ed25519.PrivateKey
	pin          [sha256.Size]byte
	trustVersion uint64
}

func parseToken(text string) (token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 5 || parts[0] != "ret1" {
		return token{}, errors.New("no enrolment token: it has five parts and begins with ret1")
	}
	seed, err1 := base64.RawURLEncoding.DecodeString(parts[2])
	pin, err2 := base64.RawURLEncoding.DecodeString(parts[3])
	version, err3 := strconv.ParseUint(parts[4], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil || len(seed) != ed25519.SeedSize || len(pin) != sha256.Size {
		return token{}, errors.New("the enrolment token is damaged")
	}
	return token{parts[1], ed25519.NewKeyFromSeed(seed), [sha256.Size]byte(pin), version}, nil
}

// trust is a verified trust bundle.
type trust struct {
	fleetID       string
	version       uint64
	roots, orders []crypto.PublicKey
	serverCA      *x509.CertPool
	agentCA       []*x509.Certificate
}

// follow verifies a chain from the pin to the newest bundle.
func follow(pin [sha256.Size]byte, chain []envelope) (*trust, error) {
	var t *trust
	for i := range chain {
		var err error
		if t == nil {
			t, err = begin(pin, &chain[i])
		} else {
			t, err = t.next(&chain[i])
		}
		if err != nil {
			return nil, err
		}
	}
	if t == nil {
		return nil, errors.New("no bundle has the pinned root")
	}
	return t, nil
}

// begin accepts a first bundle by the pin. Bundles from before the pinned root are passed over: nil without an error.
func begin(pin [sha256.Size]byte, e *envelope) (*trust, error) {
	var b trustBundle
	if err := json.Unmarshal(e.Payload, &b); err != nil {
		return nil, err
	}
	for _, k := range b.Keys {
		if sha256.Sum256(k.SPKI) != pin || !slices.Contains(k.Uses, "KEY_USE_ROOT") {
			continue
		}
		root, err := x509.ParsePKIXPublicKey(k.SPKI)
		if err != nil {
			return nil, err
		}
		if err := open(e, "trust", &b, []crypto.PublicKey{root}); err != nil {
			return nil, err
		}
		return newTrust(b)
	}
	return nil, nil
}

func (t *trust) next(e *envelope) (*trust, error) {
	var b trustBundle
	if err := open(e, "trust", &b, t.roots); err != nil {
		return nil, err
	}
	if uint64(b.Version) <= t.version || b.FleetID != t.fleetID {
		return nil, fmt.Errorf("version %d of fleet %s does not follow version %d of %s", b.Version, b.FleetID, t.version, t.fleetID)
	}
	return newTrust(b)
}

func newTrust(b trustBundle) (*trust, error) {
	t := &trust{fleetID: b.FleetID, version: uint64(b.Version), serverCA: x509.NewCertPool()}
	for _, k := range b.Keys {
		key, err := x509.ParsePKIXPublicKey(k.SPKI)
		if err != nil {
			continue // an algorithm that we do not know
		}
		if slices.Contains(k.Uses, "KEY_USE_ROOT") {
			t.roots = append(t.roots, key)
		}
		if slices.Contains(k.Uses, "KEY_USE_ORDERS") {
			t.orders = append(t.orders, key)
		}
	}
	for _, der := range b.ServerCA {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("server_ca: %w", err)
		}
		t.serverCA.AddCert(ca)
	}
	for _, der := range b.AgentCA {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("agent_ca: %w", err)
		}
		t.agentCA = append(t.agentCA, ca)
	}
	if len(t.roots) == 0 || len(t.orders) == 0 || len(b.ServerCA) == 0 || len(b.AgentCA) == 0 || t.version == 0 {
		return nil, errors.New("the bundle lacks a root key, an order key, a CA or its version")
	}
	return t, nil
}

// versionOf reads a version before it is verified: good for asking on, and for nothing else.
func versionOf(e *envelope) (uint64, error) {
	var b trustBundle
	err := json.Unmarshal(e.Payload, &b)
	return uint64(b.Version), err
}

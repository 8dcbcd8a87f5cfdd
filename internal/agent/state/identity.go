package state

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/rollcall-dev/rollcall/internal/identity"
)

// Names of the requests that a pending key may be part of.
const (
	Enrollment = "enroll"
	Renewal    = "renew"
)

// Identity is who this machine is: a certificate and its key.
type Identity struct {
	FleetID, ID string
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// TLS is the identity as a TLS client presents it: the leaf alone.
func (i *Identity) TLS() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{i.Certificate.Raw}, PrivateKey: i.Key, Leaf: i.Certificate}
}

// Pending is a key that asks for a certificate, and the request as it was, or will be, sent: it is repeated to the letter.
type Pending struct {
	Key *ecdsa.PrivateKey
	// Request is the exact body, nil until SaveRequest.
	Request []byte
}

// Identity loads the identity, nil where there is none. A renewal or an enrolment that was answered before a crash is finished first.
func (d *Dir) Identity() (*Identity, error) {
	if err := d.rollForward(); err != nil {
		return nil, err
	}
	cert, err := d.readCertificate("identity/agent.crt")
	if err != nil {
		return nil, err
	}
	key, err := d.readKey("identity/agent.key")
	if err != nil || cert == nil && key == nil {
		return nil, err
	}
	id, err := newIdentity(cert, key)
	if err != nil {
		for _, name := range []string{"identity/agent.crt", "identity/agent.key"} {
			d.setAside(name, err)
		}
		return nil, nil
	}
	return id, nil
}

func newIdentity(cert *x509.Certificate, key *ecdsa.PrivateKey) (*Identity, error) {
	if cert == nil || key == nil {
		return nil, errors.New("the certificate or its key is missing")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the certificate is of another key")
	}
	fleet, id, err := identity.ParseURI(cert)
	if err != nil {
		return nil, err
	}
	return &Identity{FleetID: fleet, ID: id, Certificate: cert, Key: key}, nil
}

// Pending loads the pending key and its request of that name, making and persisting a key where there is none.
func (d *Dir) Pending(request string) (*Pending, error) {
	key, err := d.readKey("pending/agent.key")
	if err != nil {
		return nil, err
	}
	if key == nil {
		if err := d.DropPending(); err != nil { // what is left is of another key
			return nil, err
		}
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		return &Pending{Key: key}, d.writeKey("pending/agent.key", key)
	}
	body, err := d.read("pending/" + request)
	return &Pending{Key: key, Request: body}, err
}

// SaveRequest persists the request, before it is sent.
func (d *Dir) SaveRequest(request string, body []byte) error {
	return d.write("pending/"+request, body)
}

// DropRequest forgets a request that was refused; the key stays, so that the next one is the same claim.
func (d *Dir) DropRequest(request string) error { return d.remove("pending/" + request) }

// DropPending forgets a pending key with its requests.
func (d *Dir) DropPending() error {
	return d.remove("pending/agent.crt", "pending/"+Enrollment, "pending/"+Renewal, "pending/agent.key")
}

// Commit makes the pending key and the certificate for it the identity.
func (d *Dir) Commit(cert *x509.Certificate) (*Identity, error) {
	key, err := d.readKey("pending/agent.key")
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(cert, key)
	if err != nil {
		return nil, err
	}
	// From here on it is decided: whatever happens, rollForward ends in the new identity.
	if err := d.writePEM("pending/agent.crt", "CERTIFICATE", cert.Raw); err != nil {
		return nil, err
	}
	return id, d.rollForward()
}

// rollForward finishes a Commit. Each step may be repeated.
func (d *Dir) rollForward() error {
	cert, err := d.readCertificate("pending/agent.crt")
	if err != nil || cert == nil {
		return err
	}
	key, err := d.readKey("pending/agent.key")
	if err != nil {
		return err
	}
	if key == nil { // all but the last step was done; or the key was damaged, and the certificate is worth nothing
		return d.remove("pending/agent.crt")
	}
	if _, err := newIdentity(cert, key); err != nil {
		d.setAside("pending/agent.crt", err)
		return nil
	}
	if err := d.writeKey("identity/agent.key", key); err != nil {
		return err
	}
	if err := d.writePEM("identity/agent.crt", "CERTIFICATE", cert.Raw); err != nil {
		return err
	}
	// The key goes before the certificate: left alone it would be taken for the key of the next renewal.
	return d.remove("pending/"+Enrollment, "pending/"+Renewal, "pending/agent.key", "pending/agent.crt")
}

func (d *Dir) readCertificate(name string) (*x509.Certificate, error) {
	der, err := d.readPEM(name, "CERTIFICATE")
	if err != nil || der == nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		d.setAside(name, err)
		return nil, nil
	}
	return cert, nil
}

func (d *Dir) readKey(name string) (*ecdsa.PrivateKey, error) {
	der, err := d.readPEM(name, "PRIVATE KEY")
	if err != nil || der == nil {
		return nil, err
	}
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if key, ok := k.(*ecdsa.PrivateKey); ok && key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	d.setAside(name, errors.New("it is no ECDSA P-256 key"))
	return nil, nil
}

func (d *Dir) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	return d.writePEM(name, "PRIVATE KEY", der)
}

func (d *Dir) readPEM(name, kind string) ([]byte, error) {
	b, err := d.read(name)
	if err != nil || b == nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		d.setAside(name, fmt.Errorf("it is no PEM %s", kind))
		return nil, nil
	}
	return block.Bytes, nil
}

func (d *Dir) writePEM(name, kind string, der []byte) error {
	return d.write(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

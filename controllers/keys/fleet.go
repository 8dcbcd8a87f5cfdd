// Package keys makes and holds what a fleet signs with, and publishes whom to trust.
//
// All keys are Secrets in the manager's namespace. They are created once, never overwritten, and read by name: whoever creates one first has
// made it for everybody, so any number of managers may start at once, and one that is killed half-way leaves the rest to the next.
package keys

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// Names of the Secrets and ConfigMaps.
const (
	RootSecret     = "rollcall-root-key" //nolint:gosec // names, not keys
	OrderSecret    = "rollcall-order-key"
	AgentCASecret  = "rollcall-agent-ca"
	ServerCASecret = "rollcall-server-ca"
	TokenSecret    = "rollcall-token-key"
	TrustConfigMap = "rollcall-trust"
	Beacons        = "rollcall-beacon"
)

// fleetIDKey holds the fleet's ID: in the root key's Secret, where it is decided, and in the trust ConfigMap, where others read it.
const fleetIDKey = "fleet-id"

// Store is where keys and trust are kept: a client that reads the API server itself, for nothing here may come from a cache.
type Store struct {
	Client    client.Client
	Namespace string
	// Overlap is how long an order key that was replaced is still believed: what it signed last has to reach its agents. Below a
	// minute it is not.
	Overlap time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Fleet is what a fleet signs with. Private keys stay behind crypto.Signer.
type Fleet struct {
	// ID of the fleet, a UUID.
	ID string
	// Orders signs beacons, assignments and policies.
	Orders crypto.Signer
	// AgentCA signs agents' certificates, ServerCA gateways'.
	AgentCA, ServerCA *Authority

	root     crypto.Signer
	tokenKey []byte
	trust    atomic.Pointer[identity.Trust]
}

// Trust is the newest bundle that was published.
func (f *Fleet) Trust() *identity.Trust { return f.trust.Load() }

// Token is the enrolment token of the EnrollmentToken with this UID: always the same key, and the trust as it is now.
func (f *Fleet) Token(uid string) identity.Token {
	return identity.Token{
		UID:          uid,
		Seed:         identity.NewSeed(f.tokenKey, uid),
		RootPin:      identity.Pin(spki(f.root.Public())),
		TrustVersion: f.Trust().Version,
	}
}

// Ensure loads the fleet's keys and trust, and makes what is missing.
func (s Store) Ensure(ctx context.Context) (*Fleet, error) {
	// The trust is looked at first: where it is published, a root key has been made before.
	_, published, err := s.readTrust(ctx)
	if err != nil {
		return nil, err
	}
	f := &Fleet{}
	for _, step := range []func() error{
		func() error { return s.ensureRoot(ctx, f, published) },
		func() error { return s.ensureSigner(ctx, OrderSecret, &f.Orders) },
		func() error { return s.ensureAuthority(ctx, AgentCASecret, "Rollcall agent CA", &f.AgentCA) },
		func() error { return s.ensureAuthority(ctx, ServerCASecret, "Rollcall server CA", &f.ServerCA) },
		func() error { return s.ensureTokenKey(ctx, f) },
		func() error { return s.ensureTrust(ctx, f) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// same tells whether two fleets hold the same keys.
func (f *Fleet) same(g *Fleet) bool {
	return f.ID == g.ID &&
		bytes.Equal(spki(f.root.Public()), spki(g.root.Public())) &&
		bytes.Equal(spki(f.Orders.Public()), spki(g.Orders.Public())) &&
		f.AgentCA.Certificate.Equal(g.AgentCA.Certificate) &&
		f.ServerCA.Certificate.Equal(g.ServerCA.Certificate) &&
		bytes.Equal(f.tokenKey, g.tokenKey)
}

func (s Store) ensureRoot(ctx context.Context, f *Fleet, published bool) error {
	secret, err := s.secret(ctx, RootSecret, func() (map[string][]byte, error) {
		if published {
			return nil, fmt.Errorf("it is gone, but ConfigMap %s says that this fleet had one. Restore it from a backup. "+
				"Without one, delete the ConfigMap to begin a new fleet: every machine must then enrol again", TrustConfigMap)
		}
		key, err := newEd25519()
		if err != nil {
			return nil, err
		}
		return map[string][]byte{corev1.TLSPrivateKeyKey: key, fleetIDKey: []byte(uuid.NewString())}, nil
	})
	if err != nil {
		return err
	}
	if f.ID = string(secret.Data[fleetIDKey]); !identity.IsUUID(f.ID) {
		return s.damaged(RootSecret, fmt.Errorf("%q is no UUID", fleetIDKey))
	}
	f.root, err = parseSigner(secret)
	return s.damaged(RootSecret, err)
}

func (s Store) ensureSigner(ctx context.Context, name string, signer *crypto.Signer) error {
	secret, err := s.secret(ctx, name, func() (map[string][]byte, error) {
		key, err := newEd25519()
		return map[string][]byte{corev1.TLSPrivateKeyKey: key}, err
	})
	if err != nil {
		return err
	}
	*signer, err = parseSigner(secret)
	return s.damaged(name, err)
}

func (s Store) ensureAuthority(ctx context.Context, name, commonName string, authority **Authority) error {
	secret, err := s.secret(ctx, name, func() (map[string][]byte, error) { return newAuthority(commonName, s.now()) })
	if err != nil {
		return err
	}
	*authority, err = parseAuthority(secret)
	return s.damaged(name, err)
}

func (s Store) ensureTokenKey(ctx context.Context, f *Fleet) error {
	secret, err := s.secret(ctx, TokenSecret, newTokenKey)
	if err != nil {
		return err
	}
	if f.tokenKey = secret.Data["key"]; len(f.tokenKey) != tokenKeyBytes {
		return s.damaged(TokenSecret, fmt.Errorf(`"key" has %d bytes, not %d`, len(f.tokenKey), tokenKeyBytes))
	}
	return nil
}

// secret gets a Secret by name, and creates it with what make returns if it is missing. Somebody else's creation wins.
func (s Store) secret(ctx context.Context, name string, create func() (map[string][]byte, error)) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: s.Namespace, Name: name}
	err := s.Client.Get(ctx, key, secret)
	if !apierrors.IsNotFound(err) {
		return secret, s.failed("read", name, err)
	}
	secret = &corev1.Secret{Type: corev1.SecretTypeOpaque}
	secret.Namespace, secret.Name = key.Namespace, key.Name
	if secret.Data, err = create(); err != nil {
		return nil, s.failed("make", name, err)
	}
	err = s.Client.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		secret = &corev1.Secret{}
		return secret, s.failed("read", name, s.Client.Get(ctx, key, secret))
	}
	if err != nil {
		return nil, s.failed("create", name, err)
	}
	faults.After(name, "")
	return secret, nil
}

func (s Store) failed(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s Secret %s/%s: %w", verb, s.Namespace, name, err)
}

var errDamaged = errors.New("the key is unusable: restore it from a backup, or delete it and restart the manager to have a new one made")

func (s Store) damaged(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("Secret %s/%s: %w: %w", s.Namespace, name, errDamaged, err) //nolint:staticcheck // begins with a kind's name
}

func (s Store) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

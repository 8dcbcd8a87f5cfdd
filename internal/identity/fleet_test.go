package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

const (
	fleetA   = "0f8fad5b-d9cb-469f-a165-70867728950e"
	fleetB   = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	tokenA   = "11111111-2222-3333-4444-555555555555"
	tokenB   = "66666666-7777-8888-9999-000000000000"
	machineA = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	machineB = "eeeeeeee-dddd-cccc-bbbb-aaaaaaaaaaaa"
)

var issued = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// authority is a CA with its certificate.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: issued, NotAfter: issued.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{key, certificate(t, tmpl, tmpl, key.Public(), key)}
}

func certificate(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf is an agent's certificate with the given names.
func (a authority) leaf(t testing.TB, pub crypto.PublicKey, change func(*x509.Certificate), uris ...*url.URL) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: issued, NotAfter: issued.AddDate(0, 1, 0), URIs: uris}
	if change != nil {
		change(tmpl)
	}
	return certificate(t, tmpl, a.cert, pub, a.key)
}

func csrOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func seal(t testing.TB, key crypto.Signer, typ envelope.Type, m proto.Message) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Seal(key, typ, m)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// fleet has the keys of one installation, and makes its trust bundles.
type fleet struct {
	id                string
	root, order       ed25519.PrivateKey
	serverCA, agentCA authority
}

func newFleet(t testing.TB, id string) fleet {
	t.Helper()
	return fleet{id, edKey(t), edKey(t), newAuthority(t, "server"), newAuthority(t, "agent")}
}

func (f fleet) pin(t testing.TB) [32]byte { return Pin(spkiOf(t, f.root)) }

func (f fleet) bundle(t testing.TB, version uint64) *agentv1.TrustBundle {
	t.Helper()
	return &agentv1.TrustBundle{
		FleetId: f.id, Version: version, IssuedAt: timestamppb.New(issued.Add(time.Duration(version) * time.Hour)),
		Keys: []*agentv1.TrustKey{
			{Spki: spkiOf(t, f.root), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT}},
			{Spki: spkiOf(t, f.order), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS}},
		},
		ServerCa: [][]byte{f.serverCA.cert.Raw}, AgentCa: [][]byte{f.agentCA.cert.Raw},
	}
}

// trust is the bundle of a version, signed by the fleet's own root.
func (f fleet) trust(t testing.TB, version uint64) *agentv1.Envelope {
	t.Helper()
	return seal(t, f.root, envelope.Trust, f.bundle(t, version))
}

package envelope

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

var (
	seeded = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	types  = []Type{Trust, Beacon, Assignment, Policy, Action, Cancel, Enrollment, Renewal, Result}
)

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustSign(t testing.TB, key crypto.Signer, typ Type, payload string) *agentv1.Envelope {
	t.Helper()
	e, err := Sign(key, typ, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The test vector of the DSSE specification, protocol.md, "Test Vectors". Its signature is r and s side by side; ours are ASN.1.
func TestSpecificationVector(t *testing.T) {
	const typ, payload = "http://example.com/HelloWorld", "hello world"
	if got, want := string(PAE(typ, []byte(payload))), "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("PAE is %q, want %q", got, want)
	}
	number := func(s string) *big.Int {
		n, _ := new(big.Int).SetString(s, 10)
		return n
	}
	raw, err := base64.StdEncoding.DecodeString("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
	if err != nil {
		t.Fatal(err)
	}
	point := append([]byte{4}, number("46950820868899156662930047687818585632848591499744589407958293238635476079160").FillBytes(make([]byte, 32))...)
	point = append(point, number("5640078356564379163099075877009565129882514886557779369047442380624545832820").FillBytes(make([]byte, 32))...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	e := &agentv1.Envelope{PayloadType: typ, Payload: []byte(payload), Signatures: []*agentv1.Signature{{Sig: sig}}}
	if err := Verify(e, typ, key); err != nil {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	ec, other := p256(t), p256(t)
	for _, key := range []crypto.Signer{seeded, ec} {
		e := mustSign(t, key, Policy, `{"a":1}`)
		for name, tc := range map[string]struct {
			keys []crypto.PublicKey
			want error
		}{
			"its key":              {[]crypto.PublicKey{key.Public()}, nil},
			"its key among others": {[]crypto.PublicKey{other.Public(), key.Public()}, nil},
			"another key":          {[]crypto.PublicKey{other.Public()}, ErrSignature},
			"no key":               {nil, ErrSignature},
		} {
			if err := Verify(e, Policy, tc.keys...); !errors.Is(err, tc.want) {
				t.Errorf("%T, %s: %v, want %v", key, name, err, tc.want)
			}
		}
		if spki, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil || e.GetSignatures()[0].GetKeyid() != KeyID(spki) {
			t.Errorf("%T: the key ID is %q (%v)", key, e.GetSignatures()[0].GetKeyid(), err)
		}
	}
}

func TestOtherCurvesDoNotVerify(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(mustSign(t, key, Policy, `{}`), Policy, key.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("a signature by P-384: %v", err)
	}
}

func TestOneGoodSignatureIsEnough(t *testing.T) {
	e := mustSign(t, p256(t), Beacon, `{}`)
	e.Signatures = append(e.Signatures, mustSign(t, seeded, Beacon, `{}`).Signatures...)
	e.Signatures[1].Keyid = "a hint that is wrong"
	if err := Verify(e, Beacon, seeded.Public()); err != nil {
		t.Error(err)
	}
}

// No order passes for another: neither by what the envelope says nor by what was signed.
func TestTypesAreNotConfused(t *testing.T) {
	for _, signed := range types {
		for _, wanted := range types {
			e := mustSign(t, seeded, signed, `{}`)
			if err := Verify(e, wanted, seeded.Public()); (signed == wanted) != (err == nil) || signed != wanted && !errors.Is(err, ErrType) {
				t.Errorf("%s taken for %s: %v", signed, wanted, err)
			}
			e.PayloadType = string(wanted)
			if err := Verify(e, wanted, seeded.Public()); (signed == wanted) != (err == nil) || signed != wanted && !errors.Is(err, ErrSignature) {
				t.Errorf("%s relabelled to %s: %v", signed, wanted, err)
			}
		}
	}
}

func TestEveryBitCounts(t *testing.T) {
	ec := p256(t)
	for _, key := range []crypto.Signer{seeded, ec} {
		good := mustSign(t, key, Assignment, `{"identityId":"x"}`)
		for name, field := range map[string]func(*agentv1.Envelope) []byte{
			"payload":   func(e *agentv1.Envelope) []byte { return e.Payload },
			"signature": func(e *agentv1.Envelope) []byte { return e.Signatures[0].Sig },
		} {
			for bit := range 8 * len(field(good)) {
				e := proto.CloneOf(good)
				field(e)[bit/8] ^= 1 << (bit % 8)
				if Verify(e, Assignment, key.Public()) == nil {
					t.Fatalf("%T: bit %d of the %s makes no difference", key, bit, name)
				}
			}
		}
		longer := proto.CloneOf(good)
		longer.Payload = append(longer.Payload, ' ')
		if Verify(longer, Assignment, key.Public()) == nil {
			t.Errorf("%T: a byte more makes no difference", key)
		}
	}
}

func TestNothingIsParsedBeforeItVerifies(t *testing.T) {
	e := mustSign(t, p256(t), Beacon, `{"trustVersion":"9"}`)
	m := &agentv1.Beacon{TrustVersion: 1}
	if err := Open(e, Beacon, m, seeded.Public()); !errors.Is(err, ErrSignature) || m.GetTrustVersion() != 1 {
		t.Errorf("%v, and the message is %v", err, m)
	}
	e = mustSign(t, seeded, Beacon, `no JSON`)
	if err := Open(e, Beacon, m, seeded.Public()); !errors.Is(err, ErrPayload) {
		t.Errorf("a signed payload that is no JSON: %v", err)
	}
}

func TestSealAndOpen(t *testing.T) {
	m := &agentv1.Beacon{FleetId: "f", IssuedAt: &timestamppb.Timestamp{Seconds: 1, Nanos: 2}, TrustVersion: 3}
	first, err := Seal(seeded, Beacon, m)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"fleetId":"f","issuedAt":"1970-01-01T00:00:01.000000002Z","trustVersion":"3"}`; string(first.GetPayload()) != want {
		t.Errorf("the payload is %s, want %s", first.GetPayload(), want)
	}
	got := &agentv1.Beacon{}
	if err := Open(first, Beacon, got, seeded.Public()); err != nil || !proto.Equal(m, got) {
		t.Errorf("%v, %v", got, err)
	}
	later := mustSign(t, seeded, Beacon, `{"fleetId":"f","later":{"x":[1]}}`)
	if err := Open(later, Beacon, &agentv1.Beacon{}, seeded.Public()); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

func TestBounds(t *testing.T) {
	signature := func(n int) *agentv1.Signature { return &agentv1.Signature{Sig: make([]byte, n)} }
	for _, tc := range []struct {
		name   string
		typ    Type
		change func(*agentv1.Envelope)
		good   bool
	}{
		{"an empty payload", Policy, func(e *agentv1.Envelope) { e.Payload = nil }, false},
		{"the largest order", Policy, func(e *agentv1.Envelope) { e.Payload = make([]byte, 32<<10) }, true},
		{"a larger order", Policy, func(e *agentv1.Envelope) { e.Payload = make([]byte, 32<<10+1) }, false},
		{"the largest proof", Enrollment, func(e *agentv1.Envelope) { e.Payload = make([]byte, 5<<10) }, true},
		{"a larger proof", Enrollment, func(e *agentv1.Envelope) { e.Payload = make([]byte, 5<<10+1) }, false},
		{"a larger renewal", Renewal, func(e *agentv1.Envelope) { e.Payload = make([]byte, 5<<10+1) }, false},
		{"the largest result", Result, func(e *agentv1.Envelope) { e.Payload = make([]byte, 32<<10) }, true},
		{"a larger result", Result, func(e *agentv1.Envelope) { e.Payload = make([]byte, 32<<10+1) }, false},
		{"no signature", Policy, func(e *agentv1.Envelope) { e.Signatures = nil }, false},
		{"four signatures", Policy, func(e *agentv1.Envelope) {
			e.Signatures = []*agentv1.Signature{signature(1), signature(1), signature(1), signature(1)}
		}, true},
		{"five signatures", Policy, func(e *agentv1.Envelope) {
			e.Signatures = []*agentv1.Signature{signature(1), signature(1), signature(1), signature(1), signature(1)}
		}, false},
		{"a proof with two signatures", Renewal, func(e *agentv1.Envelope) { e.Signatures = append(e.Signatures, signature(1)) }, false},
		{"a result with two signatures", Result, func(e *agentv1.Envelope) { e.Signatures = append(e.Signatures, signature(1)) }, false},
		{"an action with two signatures", Action, func(e *agentv1.Envelope) { e.Signatures = append(e.Signatures, signature(1)) }, true},
		{"an empty signature", Policy, func(e *agentv1.Envelope) { e.Signatures = []*agentv1.Signature{signature(0)} }, false},
		{"the longest signature", Policy, func(e *agentv1.Envelope) { e.Signatures = []*agentv1.Signature{signature(128)} }, true},
		{"a longer signature", Policy, func(e *agentv1.Envelope) { e.Signatures = []*agentv1.Signature{signature(129)} }, false},
		{"the longest key ID", Policy, func(e *agentv1.Envelope) { e.Signatures[0].Keyid = strings.Repeat("~", 128) }, true},
		{"a longer key ID", Policy, func(e *agentv1.Envelope) { e.Signatures[0].Keyid = strings.Repeat("a", 129) }, false},
		{"a key ID that is no UTF-8", Policy, func(e *agentv1.Envelope) { e.Signatures[0].Keyid = "\xff" }, false},
		{"the longest type", Type(strings.Repeat("t", 128)), func(*agentv1.Envelope) {}, true},
		{"a longer type", Type(strings.Repeat("t", 129)), func(*agentv1.Envelope) {}, false},
		{"no type", "", func(*agentv1.Envelope) {}, false},
	} {
		e := mustSign(t, seeded, tc.typ, `{}`)
		tc.change(e)
		if err := Check(e, tc.typ); (err == nil) != tc.good || !tc.good && !errors.Is(err, ErrBounds) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if err := Check(nil, Policy); !errors.Is(err, ErrType) {
		t.Errorf("no envelope: %v", err)
	}
	if _, err := Sign(seeded, Renewal, make([]byte, 5<<10+1)); !errors.Is(err, ErrBounds) {
		t.Errorf("signing what nobody would accept: %v", err)
	}
}

// The largest proof that is accepted must fit into the annotation that carries it to the manager.
func TestProofFitsAnnotation(t *testing.T) {
	e := mustSign(t, seeded, Enrollment, strings.Repeat("x", 5<<10))
	e.Signatures[0] = &agentv1.Signature{Keyid: strings.Repeat("\"", 128), Sig: make([]byte, 128)}
	b, err := MarshalJSON(e)
	if err != nil || Check(e, Enrollment) != nil || len(b)+len("rollcall.dev/proof") > 8<<10 {
		t.Errorf("%d bytes, %v, %v", len(b), err, Check(e, Enrollment))
	}
}

func TestJSONIsDSSE(t *testing.T) {
	e := mustSign(t, seeded, Beacon, `{}`)
	first, err := MarshalJSON(e)
	if err != nil {
		t.Fatal(err)
	}
	var dsse struct {
		PayloadType string
		Payload     []byte
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   []byte `json:"sig"`
		}
	}
	d := json.NewDecoder(bytes.NewReader(first))
	d.DisallowUnknownFields()
	if err := d.Decode(&dsse); err != nil {
		t.Fatal(err)
	}
	if dsse.PayloadType != string(Beacon) || string(dsse.Payload) != "{}" || len(dsse.Signatures) != 1 || !bytes.Equal(dsse.Signatures[0].Sig, e.GetSignatures()[0].GetSig()) {
		t.Errorf("%s", first)
	}
	for range 20 {
		again, err := MarshalJSON(proto.CloneOf(e))
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%s and %s (%v)", first, again, err)
		}
	}
	if back, err := UnmarshalJSON(first); err != nil || !proto.Equal(e, back) {
		t.Errorf("%v, %v", back, err)
	}
	if _, err := UnmarshalJSON([]byte(`{"payload":7}`)); err == nil {
		t.Error("a payload that is a number was accepted")
	}
}

func TestParseKey(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		key  crypto.Signer
		good bool
	}{{seeded, true}, {p256(t), true}, {p384, false}, {weak, false}} {
		spki, err := x509.MarshalPKIXPublicKey(tc.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseKey(spki)
		if (err == nil) != tc.good || tc.good && !equal(got, tc.key.Public()) {
			t.Errorf("%T: %v, %v", tc.key, got, err)
		}
	}
	if _, err := ParseKey([]byte("no key")); err == nil {
		t.Error("garbage is a key")
	}
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func FuzzEnvelopeJSON(f *testing.F) {
	good, err := MarshalJSON(mustSign(f, seeded, Trust, `{"fleetId":"f"}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"payloadType":"x","payload":"e30","signatures":[{"sig":"AA"},{"keyid":null}],"later":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := UnmarshalJSON(b)
		if err != nil {
			return
		}
		if Verify(e, Type(e.GetPayloadType()), seeded.Public()) == nil && string(e.GetPayload()) != `{"fleetId":"f"}` {
			t.Fatalf("forged: %s", b)
		}
		if Check(e, Type(e.GetPayloadType())) != nil {
			return
		}
		first, err := MarshalJSON(e)
		if err != nil {
			t.Fatal(err)
		}
		back, err := UnmarshalJSON(first)
		if err != nil || !proto.Equal(e, back) {
			t.Fatalf("%v came back as %v: %v", e, back, err)
		}
	})
}

func FuzzKey(f *testing.F) {
	for _, key := range []crypto.PublicKey{seeded.Public(), p256(f).Public()} {
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(spki)
	}
	f.Fuzz(func(t *testing.T, spki []byte) {
		key, err := ParseKey(spki)
		if err != nil {
			return
		}
		again, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseKey(again); err != nil || !equal(back, key) {
			t.Fatalf("%v came back as %v: %v", key, back, err)
		}
	})
}

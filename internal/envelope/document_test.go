package envelope

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"regexp"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// The examples that authors of other agents check their code against.
func TestDocumentedExamples(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindSubmatch(doc)
		if m == nil {
			t.Fatalf("nothing in docs/protocol.md matches %s", pattern)
		}
		return string(m[1])
	}
	secret := func(rfc string) []byte {
		b, err := hex.DecodeString(find(rfc + ".*?secret `([0-9a-f]{64})`"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	agentKey, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), secret("RFC 6979"))
	if err != nil {
		t.Fatal(err)
	}
	orderKey := ed25519.NewKeyFromSeed(secret("RFC 8032"))
	for rfc, key := range map[string]crypto.Signer{"RFC 8032": orderKey, "RFC 6979": agentKey} {
		spki, err := base64.StdEncoding.DecodeString(find(rfc + ".*?SubjectPublicKeyInfo `([^`]+)`"))
		if err != nil {
			t.Fatal(err)
		}
		if pub, err := ParseKey(spki); err != nil || !equal(pub, key.Public()) {
			t.Errorf("the document's public key of %s is not the secret's: %v", rfc, err)
		}
	}
	for name, tc := range map[string]struct {
		typ Type
		key crypto.Signer
	}{"": {Beacon, orderKey}, "action ": {Action, orderKey}, "result ": {Result, agentKey}} {
		payload := find("(?s)```json " + name + "payload\n(.*?)\n```")
		if got, want := string(PAE(tc.typ, []byte(payload))), find("(?s)```text "+name+"pae\n(.*?)\n```"); got != want {
			t.Errorf("of %s the document signs %q, we %q", tc.typ, want, got)
		}
		got, err := UnmarshalJSON([]byte(find("(?s)```json " + name + "envelope\n(.*?)\n```")))
		if err != nil {
			t.Fatal(err)
		}
		if want := signedAgain(t, tc.key, tc.typ, payload); !proto.Equal(got, want) {
			t.Errorf("of %s the document has %v, we make %v", tc.typ, got, want)
		}
		if err := Verify(got, tc.typ, tc.key.Public()); err != nil {
			t.Errorf("the document's %s: %v", tc.typ, err)
		}
	}
}

// signedAgain is the envelope that everybody makes of it: where a signature has a random part, with that of RFC 6979.
func signedAgain(t *testing.T, key crypto.Signer, typ Type, payload string) *agentv1.Envelope {
	e := mustSign(t, key, typ, payload)
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		sum := sha256.Sum256(PAE(typ, []byte(payload)))
		sig, err := ec.Sign(nil, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		e.Signatures[0].Sig = sig
	}
	return e
}

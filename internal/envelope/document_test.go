package envelope

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"os"
	"regexp"
	"testing"

	"google.golang.org/protobuf/proto"
)

// The example that authors of other agents check their code against.
func TestDocumentedExample(t *testing.T) {
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
	seed, err := hex.DecodeString(find("secret `([0-9a-f]{64})`"))
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	payload := find("(?s)```json payload\n(.*?)\n```")
	if got, want := string(PAE(Beacon, []byte(payload))), find("(?s)```text pae\n(.*?)\n```"); got != want {
		t.Errorf("the document signs %q, we %q", want, got)
	}
	got, err := UnmarshalJSON([]byte(find("(?s)```json envelope\n(.*?)\n```")))
	if err != nil {
		t.Fatal(err)
	}
	if want := mustSign(t, key, Beacon, payload); !proto.Equal(got, want) {
		t.Errorf("the document has %v, we make %v", got, want)
	}
	spki, err := base64.StdEncoding.DecodeString(find("SubjectPublicKeyInfo `([^`]+)`"))
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := ParseKey(spki); err != nil || !equal(pub, key.Public()) {
		t.Errorf("the document's public key is not the secret's: %v", err)
	}
}

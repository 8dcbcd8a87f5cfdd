package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"testing"
)

const document = "../../docs/protocol.md"

func read(t *testing.T) []byte {
	t.Helper()
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// finder finds the first part of a pattern in the document.
func finder(t *testing.T) func(pattern string) []byte {
	doc := read(t)
	return func(pattern string) []byte {
		m := regexp.MustCompile(pattern).FindSubmatch(doc)
		if m == nil {
			t.Fatalf("nothing matches %s", pattern)
		}
		return m[1]
	}
}

func mustKey(t *testing.T, spki []byte) crypto.PublicKey {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(string(spki))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The document's example is what an author checks new code against.
func TestExampleOfTheDocument(t *testing.T) {
	find := finder(t)
	payload := find("(?s)```json payload\n(.*?)\n```")
	if got, want := pae(payloadType("beacon"), payload), find("(?s)```text pae\n(.*?)\n```"); !bytes.Equal(got, want) {
		t.Errorf("PAE is %q, in the document %q", got, want)
	}
	var e envelope
	if err := json.Unmarshal(find("(?s)```json envelope\n(.*?)\n```"), &e); err != nil {
		t.Fatal(err)
	}
	key := mustKey(t, find("RFC 8032.*?SubjectPublicKeyInfo `([^`]+)`"))
	var b beacon
	if err := open(&e, "beacon", &b, []crypto.PublicKey{key}); err != nil || b.TrustVersion != 3 {
		t.Errorf("%+v, %v", b, err)
	}
	if err := open(&e, "policy", &policy{}, []crypto.PublicKey{key}); err == nil {
		t.Error("a beacon passes for a policy")
	}
	e.Payload = append(e.Payload, ' ')
	if err := open(&e, "beacon", &b, []crypto.PublicKey{key}); err == nil {
		t.Error("a payload that was changed verifies")
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := follow(sha256.Sum256(spki), []envelope{e}); err == nil {
		t.Error("a beacon passes for a trust bundle")
	}
}

func TestStatusesOfTheDocument(t *testing.T) {
	doc := read(t)
	for name, status := range statuses {
		if !regexp.MustCompile("\\| `" + name + "` \\| " + strconv.Itoa(status) + " \\|").Match(doc) {
			t.Errorf("%s does not have the status %d there", name, status)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"-server", "https://gateway:8443"}, {"-server", "http://gateway:8443", "-token-file", "-"}, {"-server", "https://gateway:8443", "-token-file", "-"}, {"-x"},
	} {
		var out, errs bytes.Buffer
		if code := run(args, bytes.NewReader([]byte("no token")), &out, &errs); code != misused || errs.Len() == 0 {
			t.Errorf("%q: exit code %d, %s", args, code, &errs)
		}
	}
}

package content

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"aead.dev/minisign"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Signatures of the four bytes "test" by the key of minisign's own examples: what minisign -S writes today, and what it wrote with -l or before 0.10.
const (
	examplesKey = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
	prehashed   = "untrusted comment: signature from minisign secret key\n" +
		"RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n" +
		"trusted comment: timestamp:1556193335\tfile:test\n" +
		"y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n"
	legacy = "untrusted comment: signature from minisign secret key\n" +
		"RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=\n" +
		"trusted comment: timestamp:1555779966\tfile:test\n" +
		"QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==\n"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerifySignature(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(examplesKey)
	if err != nil {
		t.Fatal(err)
	}
	theirs, other := ed25519.PublicKey(raw[10:]), newKey(t).Public()
	keys := []crypto.PublicKey{"a key of the future", other, theirs}
	for name, signature := range map[string]string{"of the digest": prehashed, "of the file": legacy} {
		if err := VerifySignature([]byte("test"), signature, keys); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		lines := strings.Split(signature, "\n")
		commented := strings.Replace(signature, "file:test", "file:best", 1)
		for how, refused := range map[string]error{
			"another file":       VerifySignature([]byte("Test"), signature, keys),
			"another key":        VerifySignature([]byte("test"), signature, keys[:2]),
			"no key":             VerifySignature([]byte("test"), signature, nil),
			"another comment":    VerifySignature([]byte("test"), commented, keys),
			"no comment's":       VerifySignature([]byte("test"), strings.Join(lines[:2], "\n"), keys),
			"nothing":            VerifySignature([]byte("test"), "", keys),
			"what is no base64":  VerifySignature([]byte("test"), strings.Replace(signature, "6LRC", "!!!!", 1), keys),
			"the other's digest": VerifySignature([]byte("test"), strings.Replace(signature, lines[1][:2], map[string]string{"RU": "RW", "RW": "RU"}[lines[1][:2]], 1), keys),
		} {
			if !errors.Is(refused, ErrSignature) {
				t.Errorf("%s, %s: %v", name, how, refused)
			}
		}
	}
}

// Each check of a file has its reason, and the first that fails is told.
func TestVerify(t *testing.T) {
	key, theirs, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(key.String())
	if err != nil {
		t.Fatal(err)
	}
	public := ed25519.PublicKey(raw[10:])
	good := []byte(whole)
	artifact := func(file []byte) *agentv1.Artifact {
		return &agentv1.Artifact{
			Sha256: Digest(file), Size: uint64(len(file)), MediaType: MediaType, Signature: string(minisign.Sign(theirs, file)),
		}
	}
	changed := append([]byte(nil), good...)
	changed[10] ^= 1
	large := artifact(good)
	large.Size = MaxBytes + 1
	unparsable := []byte(strings.Replace(whole, `"eicar": true`, `"eicar": true, "action": "delete"`, 1))
	for name, c := range map[string]struct {
		file    []byte
		a       *agentv1.Artifact
		version string
		key     crypto.PublicKey
		reason  string
	}{
		"good":            {good, artifact(good), "1042", public, ""},
		"good, 1042.0":    {good, artifact(good), "1042.0", public, ""},
		"too large":       {good, large, "1042", public, ReasonTooLarge},
		"cut":             {good[:100], artifact(good), "1042", public, ReasonSizeDiffers},
		"longer":          {append(append([]byte(nil), good...), ' '), artifact(good), "1042", public, ReasonSizeDiffers},
		"changed":         {changed, artifact(good), "1042", public, ReasonDigestDiffers},
		"another key":     {good, artifact(good), "1042", newKey(t).Public(), ReasonSignatureInvalid},
		"unparsable":      {unparsable, artifact(unparsable), "1042", public, ReasonUnparsable},
		"another version": {good, artifact(good), "1043", public, ReasonVersionDiffers},
	} {
		b, err := Verify(c.file, c.a, c.version, []crypto.PublicKey{c.key})
		if c.reason == "" {
			if err != nil || b.Version != "1042" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if fault, ok := errors.AsType[*Fault](err); !ok || fault.Reason != c.reason || fault.Message == "" || len(fault.Message) > maxMessage || b != nil {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
	}
}

func TestFind(t *testing.T) {
	of := func(platform, mediaType string) *agentv1.Artifact {
		return &agentv1.Artifact{Platform: platform, MediaType: mediaType}
	}
	for name, c := range map[string]struct {
		artifacts []*agentv1.Artifact
		want      int
	}{
		"for all":                   {[]*agentv1.Artifact{of("", MediaType)}, 0},
		"the platform's before all": {[]*agentv1.Artifact{of("", MediaType), of("linux/arm64", MediaType), of("linux/amd64", MediaType)}, 2},
		"the platform's first":      {[]*agentv1.Artifact{of("linux/amd64", MediaType), of("", MediaType)}, 0},
		"of another kind":           {[]*agentv1.Artifact{of("", "application/gzip")}, -1},
		"for another platform":      {[]*agentv1.Artifact{of("darwin/arm64", MediaType)}, -1},
	} {
		var want *agentv1.Artifact
		if c.want >= 0 {
			want = c.artifacts[c.want]
		}
		if got := Find(&agentv1.Offer{Artifacts: c.artifacts}, "linux/amd64"); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

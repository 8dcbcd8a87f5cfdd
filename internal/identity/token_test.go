package identity

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func anyToken(t *rapid.T) Token {
	token := Token{TrustVersion: rapid.Uint64Min(1).Draw(t, "version")}
	copy(token.Seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
	copy(token.RootPin[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "pin"))
	id, err := uuid.FromBytes(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uid"))
	if err != nil {
		t.Fatal(err)
	}
	token.UID = id.String()
	return token
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyToken(t)
		text := want.Reveal()
		if len(text) > MaxTokenBytes {
			t.Fatalf("a token of %d bytes", len(text))
		}
		for _, s := range []string{text, text + "\n", "  " + text + "\r\n"} {
			if got, err := ParseToken(s); err != nil || got != want {
				t.Fatalf("%q: %v, %v", s, got, err)
			}
		}
	})
}

// A token that lost, gained or changed a character on the way must not become another token unnoticed, but for its number and UID, which
// the server refuses.
func TestTokenDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyToken(t)
		text := want.Reveal()
		i := rapid.IntRange(0, len(text)-1).Draw(t, "position")
		c := rapid.SampledFrom([]byte("0aZ_-.= \x00\xff")).Draw(t, "character")
		for _, s := range []string{text[:i], text[:i] + text[i+1:], text[:i] + string(c) + text[i:], text[:i] + string(c) + text[i+1:]} {
			got, err := ParseToken(s)
			if err == nil && got == want && strings.TrimSpace(s) != text {
				t.Fatalf("%q is read as the token %q", s, text)
			}
			if err != nil && leaks(err.Error(), text) {
				t.Fatalf("the error %q repeats a part of the token", err)
			}
		}
	})
}

func leaks(said, token string) bool {
	parts := strings.Split(token, ".")
	return strings.Contains(said, parts[2]) || strings.Contains(said, parts[3])
}

func TestTokenIsRefused(t *testing.T) {
	good := Token{UID: tokenA, TrustVersion: 1}.Reveal()
	parts := strings.Split(good, ".")
	with := func(i int, part string) string {
		changed := append([]string{}, parts...)
		changed[i] = part
		return strings.Join(changed, ".")
	}
	for _, tc := range []struct{ text, says string }{
		{"", "begins with ret1."},
		{with(0, "ret2"), "begins with ret1."},
		{good + ".x", "begins with ret1."},
		{strings.Join(parts[:4], "."), "begins with ret1."},
		{with(4, strings.Repeat("1", MaxTokenBytes)), "begins with ret1."},
		{with(1, strings.ToUpper(machineA)), "no UID"},
		{with(2, parts[2][1:]), "damaged"},
		{with(2, parts[2]+"A"), "damaged"},
		{with(2, "/"+parts[2][1:]), "damaged"},
		{with(3, parts[3]+"="), "damaged"},
		{with(3, parts[3][:42]+"B"), "damaged"}, // bits that carry nothing
		{with(2, parts[2][:20]+"\n"+parts[2][20:]), "damaged"},
		{with(4, "01"), "damaged"},
		{with(4, "0"), "trust version"},
		{with(4, "-1"), "trust version"},
		{with(4, "18446744073709551616"), "trust version"},
	} {
		if got, err := ParseToken(tc.text); err == nil || !strings.Contains(err.Error(), tc.says) || got != (Token{}) {
			t.Errorf("%q: %v, %v; want %q", tc.text, got, err, tc.says)
		}
	}
}

func TestTokenKeepsItsSecret(t *testing.T) {
	token := Token{UID: tokenA, Seed: [32]byte{1, 2, 3}, TrustVersion: 1}
	for _, said := range []string{token.String(), fmt.Sprint(token), fmt.Sprintf("%+v", token), fmt.Sprintf("%#v", token), fmt.Sprintf("%s", []Token{token})} {
		if said != "ret1."+tokenA+".(secret)" && said != "[ret1."+tokenA+".(secret)]" {
			t.Errorf("a token is printed as %s", said)
		}
	}
}

// HMAC-SHA256 of the UID as text; computed with openssl dgst -sha256 -hmac.
func TestNewSeed(t *testing.T) {
	seed := NewSeed([]byte("master"), tokenA)
	if got, want := hex.EncodeToString(seed[:]), "87111774270492431609d8abb4d59dbac8b233447ed7681843946353c0ef1a54"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if other := NewSeed([]byte("master"), tokenB); other == seed {
		t.Error("two tokens have the same seed")
	}
	if key := (Token{Seed: seed}).Key(); !key.Equal(ed25519.NewKeyFromSeed(seed[:])) {
		t.Error("the key is not the seed's")
	}
}

func TestIsUUID(t *testing.T) {
	for s, want := range map[string]bool{
		fleetA: true, "": false, strings.ToUpper(fleetA): false, "{" + fleetA + "}": false, "urn:uuid:" + fleetA: false,
		strings.ReplaceAll(fleetA, "-", ""): false, fleetA + "0": false, fleetA[:35]: false, "g" + fleetA[1:]: false,
		strings.Replace(fleetA, "-", "a", 1): false,
	} {
		if IsUUID(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

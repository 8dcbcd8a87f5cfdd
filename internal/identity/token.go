// Package identity holds the rules of who is who, shared by manager, gateway and agent: the enrolment token, the trust that a fleet
// publishes, the name in an agent's certificate, and what an enrolment or a renewal must prove. It does no I/O and reads no clock.
package identity

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

const tokenPrefix = "ret1"

// MaxTokenBytes bounds a token's text.
const MaxTokenBytes = 256

// Token is an enrolment token: the seed of a key pair, with what it takes to recognise the fleet at the first contact.
type Token struct {
	// UID of the EnrollmentToken.
	UID string
	// Seed of the token's Ed25519 key.
	Seed [ed25519.SeedSize]byte
	// RootPin is the SHA-256 of the root key's SubjectPublicKeyInfo.
	RootPin [sha256.Size]byte
	// TrustVersion was the newest trust bundle when the token was handed out; an older one is a replay.
	TrustVersion uint64
}

// NewSeed derives the seed of a token's key from the fleet's master key, so that no seed is stored anywhere but in the token.
func NewSeed(master []byte, uid string) (seed [ed25519.SeedSize]byte) {
	mac := hmac.New(sha256.New, master)
	mac.Write([]byte(uid))
	mac.Sum(seed[:0])
	return seed
}

// Key is the token's private key.
func (t Token) Key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(t.Seed[:]) }

// Reveal is the token as it is handed out: a secret.
func (t Token) Reveal() string {
	b64 := base64.RawURLEncoding
	return strings.Join([]string{
		tokenPrefix, t.UID, b64.EncodeToString(t.Seed[:]), b64.EncodeToString(t.RootPin[:]), strconv.FormatUint(t.TrustVersion, 10),
	}, ".")
}

// String names the token without its secret, so that none gets into a log by accident.
func (t Token) String() string { return tokenPrefix + "." + t.UID + ".(secret)" }

// GoString is String, for %#v.
func (t Token) GoString() string { return t.String() }

var errToken = errors.New("not an enrolment token: copy it whole from the Secret (it begins with " + tokenPrefix + ".)")

// ParseToken reads what Reveal wrote. Its errors never repeat the text.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, ".")
	if len(s) > MaxTokenBytes || len(parts) != 5 || parts[0] != tokenPrefix {
		return Token{}, errToken
	}
	t := Token{UID: parts[1]}
	if !IsUUID(t.UID) {
		return Token{}, fmt.Errorf("%w: the second part is no UID", errToken)
	}
	if !decode32(parts[2], &t.Seed) || !decode32(parts[3], &t.RootPin) {
		return Token{}, fmt.Errorf("%w: the key or the pin is damaged", errToken)
	}
	v, err := strconv.ParseUint(parts[4], 10, 64)
	if err != nil || v == 0 {
		return Token{}, fmt.Errorf("%w: the last part is no trust version", errToken)
	}
	t.TrustVersion = v
	if t.Reveal() != s {
		return Token{}, fmt.Errorf("%w: it is damaged", errToken)
	}
	return t, nil
}

func decode32(s string, to *[32]byte) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && copy(to[:], b) == len(to) && len(b) == len(to)
}

// IsUUID tells whether s is a lower-case UUID in its usual form, the only one that the protocol knows.
func IsUUID(s string) bool { return wire.IsUUID(s) }

// Package envelope signs and verifies what Rollcall's parties believe of each other: orders by the manager, proofs by agents.
//
// The form is DSSE v1 (github.com/secure-systems-lab/dsse): a signature covers the payload's type and its exact bytes, which are
// carried and stored as they were signed and never encoded again. Payloads are the proto3 JSON form of a message of api/agent/v1.
package envelope

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Type is the media type of a payload. A verifier names the one it expects, so that no order passes for another.
type Type string

// The payload types of version 1.
const (
	Trust      Type = "application/vnd.rollcall.trust.v1+json"      // TrustBundle, by a root key of the bundle before
	Beacon     Type = "application/vnd.rollcall.beacon.v1+json"     // Beacon, by an order key
	Assignment Type = "application/vnd.rollcall.assignment.v1+json" // Assignment, by an order key
	Policy     Type = "application/vnd.rollcall.policy.v1+json"     // Policy, by an order key
	Offer      Type = "application/vnd.rollcall.offer.v1+json"      // Offer, by an order key
	Action     Type = "application/vnd.rollcall.action.v1+json"     // Action, by an order key
	Cancel     Type = "application/vnd.rollcall.cancel.v1+json"     // Cancel, by an order key
	Enrollment Type = "application/vnd.rollcall.enrollment.v1+json" // Enrollment, by the token's key
	Renewal    Type = "application/vnd.rollcall.renewal.v1+json"    // Renewal, by the key of the certificate inside
	Result     Type = "application/vnd.rollcall.result.v1+json"     // ActionResult, by the key of the agent's certificate
)

// Bounds of an envelope.
const (
	MaxSignatures     = 4
	MaxSignatureBytes = 128
	MaxTypeBytes      = 128
	MaxKeyIDBytes     = 128
	maxPayloadBytes   = 32 << 10
	maxRequestBytes   = 5 << 10 // enrolments and renewals: as DSSE JSON they fit into an annotation of 8 KiB
)

// Errors of Verify and Open. They wrap no detail of the payload, which is not to be believed.
var (
	ErrType       = errors.New("the envelope has another payload type")
	ErrBounds     = errors.New("the envelope exceeds its bounds")
	ErrSignature  = errors.New("no signature of the envelope verifies with an accepted key")
	ErrPayload    = errors.New("the signed payload does not parse")
	errUnknownKey = errors.New("keys are Ed25519 or ECDSA P-256")
)

// MaxPayload is the largest payload of a type, in bytes.
func (t Type) MaxPayload() int {
	switch t {
	case Enrollment, Renewal:
		return maxRequestBytes
	default:
		return maxPayloadBytes
	}
}

// maxSignatures of a type: a proof is by the agent's one key, an order may be by an old key and its successor.
func (t Type) maxSignatures() int {
	switch t {
	case Enrollment, Renewal, Result:
		return 1
	default:
		return MaxSignatures
	}
}

// PAE is DSSE's pre-authentication encoding: the bytes that are signed.
func PAE(t Type, payload []byte) []byte {
	b := make([]byte, 0, len("DSSEv1")+len(t)+len(payload)+2*20+4)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(t)), 10)
	b = append(b, ' ')
	b = append(b, t...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ' ')
	return append(b, payload...)
}

// KeyID is the hexadecimal SHA-256 of a key's SubjectPublicKeyInfo. In a signature it is a hint and never trusted.
func KeyID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// Sign puts payload, as it is, into an envelope with one signature.
func Sign(signer crypto.Signer, t Type, payload []byte) (*agentv1.Envelope, error) {
	if len(payload) > t.MaxPayload() {
		return nil, fmt.Errorf("%w: a payload of %s has at most %d bytes, this one %d", ErrBounds, t, t.MaxPayload(), len(payload))
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	message, hash := PAE(t, payload), crypto.Hash(0)
	if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	}
	sig, err := signer.Sign(rand.Reader, message, hash)
	if err != nil {
		return nil, fmt.Errorf("sign a payload of %s: %w", t, err)
	}
	return &agentv1.Envelope{
		PayloadType: string(t),
		Payload:     payload,
		Signatures:  []*agentv1.Signature{{Keyid: KeyID(spki), Sig: sig}},
	}, nil
}

// Seal encodes m and signs it.
func Seal(signer crypto.Signer, t Type, m proto.Message) (*agentv1.Envelope, error) {
	loose, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a payload of %s: %w", t, err)
	}
	// protojson varies its white space on purpose; compact, an equal message gives equal bytes.
	var payload bytes.Buffer
	if err := json.Compact(&payload, loose); err != nil {
		return nil, fmt.Errorf("encode a payload of %s: %w", t, err)
	}
	return Sign(signer, t, payload.Bytes())
}

// Verify tells whether one signature of e, a payload of type t, was made by one of keys. Nothing of the payload is looked at.
func Verify(e *agentv1.Envelope, t Type, keys ...crypto.PublicKey) error {
	if err := Check(e, t); err != nil {
		return err
	}
	message := PAE(t, e.GetPayload())
	for _, s := range e.GetSignatures() {
		for _, key := range keys {
			if verifies(key, message, s.GetSig()) {
				return nil
			}
		}
	}
	return ErrSignature
}

// Open verifies e and then parses its payload into m. Unknown fields are ignored, as the protocol demands.
func Open(e *agentv1.Envelope, t Type, m proto.Message, keys ...crypto.PublicKey) error {
	if err := Verify(e, t, keys...); err != nil {
		return err
	}
	return Parse(e.GetPayload(), m)
}

// Parse reads a payload that the caller has verified, or is about to verify with a key that is found inside.
func Parse(payload []byte, m proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return nil
}

// Check tells whether e is of type t and within the bounds of an envelope, signatures unseen.
func Check(e *agentv1.Envelope, t Type) error {
	switch {
	case e.GetPayloadType() != string(t):
		return ErrType
	case t == "" || !isASCII(string(t), MaxTypeBytes):
		return fmt.Errorf("%w: a payload type has 1 to %d bytes of printable ASCII", ErrBounds, MaxTypeBytes)
	case len(e.GetPayload()) == 0 || len(e.GetPayload()) > t.MaxPayload():
		return fmt.Errorf("%w: a payload of %s has 1 to %d bytes, this one %d", ErrBounds, t, t.MaxPayload(), len(e.GetPayload()))
	case len(e.GetSignatures()) == 0 || len(e.GetSignatures()) > t.maxSignatures():
		return fmt.Errorf("%w: %s has 1 to %d signatures, this one %d", ErrBounds, t, t.maxSignatures(), len(e.GetSignatures()))
	}
	for _, s := range e.GetSignatures() {
		if len(s.GetSig()) == 0 || len(s.GetSig()) > MaxSignatureBytes {
			return fmt.Errorf("%w: a signature has 1 to %d bytes, this one %d", ErrBounds, MaxSignatureBytes, len(s.GetSig()))
		}
		if !isASCII(s.GetKeyid(), MaxKeyIDBytes) {
			return fmt.Errorf("%w: a key ID has at most %d bytes of printable ASCII", ErrBounds, MaxKeyIDBytes)
		}
	}
	return nil
}

// isASCII tells whether s is at most so many bytes of printable ASCII.
func isASCII(s string, limit int) bool {
	return len(s) <= limit && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// ParseKey reads a SubjectPublicKeyInfo (DER). The encoding alone decides the algorithm: Ed25519 or ECDSA P-256.
func ParseKey(spki []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("parse a public key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errUnknownKey
}

func verifies(key crypto.PublicKey, message, sig []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], sig)
	default:
		return false
	}
}

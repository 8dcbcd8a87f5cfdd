package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

func payloadType(x string) string { return "application/vnd.rollcall." + x + ".v1+json" }

// pae is what is signed.
func pae(typ string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(typ), typ, len(payload), payload)
}

// seal signs a message as payload type x.
func seal(key crypto.Signer, x string, m any) envelope {
	return sealBytes(key, payloadType(x), encode(m))
}

func sealBytes(key crypto.Signer, typ string, payload []byte) envelope {
	message, hash := pae(typ, payload), crypto.Hash(0)
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, message, hash)
	spki, keyErr := x509.MarshalPKIXPublicKey(key.Public())
	if err := errors.Join(err, keyErr); err != nil {
		panic(fmt.Sprintf("sign: %v", err)) // keys of our own
	}
	id := sha256.Sum256(spki)
	return envelope{PayloadType: typ, Payload: payload, Signatures: []signature{{KeyID: hex.EncodeToString(id[:]), Sig: sig}}}
}

// open verifies e as payload type x by one of keys, and only then parses it into m.
func open(e *envelope, x string, m any, keys []crypto.PublicKey) error {
	switch {
	case e == nil:
		return fmt.Errorf("there is no %s", x)
	case e.PayloadType != payloadType(x):
		return fmt.Errorf("the payload type is %q, not %q", e.PayloadType, payloadType(x))
	case len(e.Payload) > 32<<10 || len(e.Signatures) > 4:
		return fmt.Errorf("the envelope of the %s exceeds its bounds", x)
	}
	message := pae(e.PayloadType, e.Payload)
	good := slices.ContainsFunc(e.Signatures, func(s signature) bool {
		return slices.ContainsFunc(keys, func(key crypto.PublicKey) bool { return verifies(key, message, s.Sig) })
	})
	if !good {
		return fmt.Errorf("no key that may sign a %s made the signature", x)
	}
	return json.Unmarshal(e.Payload, m)
}

func verifies(key crypto.PublicKey, message, sig []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

package listen

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"net"
	"testing"
)

// oldClient is a TLS 1.2 client (RFC 5246, ECDHE-ECDSA-AES128-GCM-SHA256) that may do without the extended master secret of RFC 7627, which
// crypto/tls always uses. It shows a certificate, sends request and returns the first record of the answer.
func oldClient(t testing.TB, c net.Conn, ems bool, certificate tls.Certificate, request string) (string, error) {
	t.Helper()
	h := newHello(t, tls12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	h.ems = ems
	if _, err := c.Write(h.record()); err != nil {
		return "", err
	}
	flight, err := handshakeMessages(c)
	if err != nil {
		return "", err
	}
	transcript := append(h.message(), bytes.Join(flight, nil)...)
	serverRandom := flight[0][6:38]
	var serverKey []byte
	for _, m := range flight {
		if m[0] == 12 { // ServerKeyExchange: named_curve, id, length, point
			serverKey = m[8 : 8+int(m[7])]
		}
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	peer, err := ecdh.X25519().NewPublicKey(serverKey)
	if err != nil {
		return "", err
	}
	premaster, err := key.ECDH(peer)
	if err != nil {
		return "", err
	}
	send := func(kind byte, body []byte) []byte {
		m := append([]byte{kind}, sized(3, body)...)
		transcript = append(transcript, m...)
		return record(22, tls12, m)
	}
	out := send(11, sized(3, sized(3, certificate.Certificate[0])))
	out = append(out, send(16, sized(1, key.PublicKey().Bytes()))...)
	seed, label := append(bytes.Clone(h.random[:]), serverRandom...), "master secret"
	if ems {
		sum := sha256.Sum256(transcript)
		seed, label = sum[:], "extended master secret"
	}
	master := prf(premaster, label, seed, 48)
	sum := sha256.Sum256(transcript)
	signer, _ := certificate.PrivateKey.(crypto.Signer)
	sig, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	out = append(out, send(15, append(u16(0x0403), sized(2, sig)...))...)
	out = append(out, record(20, tls12, []byte{1})...)
	keys := prf(master, "key expansion", append(bytes.Clone(serverRandom), h.random[:]...), 2*16+2*4)
	client, server := gcm(t, keys[:16], keys[32:36]), gcm(t, keys[16:32], keys[36:40])
	sum = sha256.Sum256(transcript)
	finished := append([]byte{20}, sized(3, prf(master, "client finished", sum[:], 12))...)
	out = append(out, client.seal(22, finished)...)
	out = append(out, client.seal(23, []byte(request))...)
	if _, err := c.Write(out); err != nil {
		return "", err
	}
	for {
		kind, body, err := readRecord(c)
		if err != nil {
			return "", err
		}
		switch kind {
		case 22:
			if len(body) == 40 { // Finished, encrypted; a session ticket before it is not
				if _, err := server.open(22, body); err != nil {
					return "", err
				}
			}
		case 23:
			plain, err := server.open(23, body)
			return string(plain), err
		}
	}
}

func prf(secret []byte, label string, seed []byte, n int) (out []byte) {
	mac := func(parts ...[]byte) []byte {
		m := hmac.New(sha256.New, secret)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	labelled := append([]byte(label), seed...)
	for a := mac(labelled); len(out) < n; a = mac(a) {
		out = append(out, mac(a, labelled)...)
	}
	return out[:n]
}

// sealer is one direction of AES-128-GCM as in RFC 5288.
type sealer struct {
	cipher.AEAD
	salt     []byte
	sequence uint64
}

func gcm(t testing.TB, key, salt []byte) *sealer {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return &sealer{AEAD: aead, salt: salt}
}

func (s *sealer) aad(kind byte, n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, s.sequence)
	s.sequence++
	return append(append(b, kind), u16(tls12, uint16(n))...)
}

func (s *sealer) seal(kind byte, plain []byte) []byte {
	nonce := binary.BigEndian.AppendUint64(nil, s.sequence)
	aad := s.aad(kind, len(plain))
	return record(kind, tls12, s.Seal(nonce, append(bytes.Clone(s.salt), nonce...), plain, aad))
}

func (s *sealer) open(kind byte, b []byte) ([]byte, error) {
	return s.Open(nil, append(bytes.Clone(s.salt), b[:8]...), b[8:], s.aad(kind, len(b)-8-s.Overhead()))
}

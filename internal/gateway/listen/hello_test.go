package listen

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// Protocol versions as they are on the wire.
const (
	ssl2  = 0x0002
	ssl3  = 0x0300
	tls10 = 0x0301
	tls11 = 0x0302
	tls12 = 0x0303
	tls13 = 0x0304
)

// hello is a raw ClientHello: what a scanner sends, and no TLS library would.
type hello struct {
	version uint16
	suites  []uint16
	curves  []uint16
	ems     bool // RFC 7627
	alpn    []string
	random  [32]byte
	share   []byte // X25519, TLS 1.3 only
}

func newHello(t testing.TB, version uint16, suites ...uint16) *hello {
	t.Helper()
	h := &hello{version: version, suites: suites, curves: []uint16{29, 23}, ems: true}
	_, _ = rand.Read(h.random[:])
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h.share = key.PublicKey().Bytes()
	return h
}

func u16(v ...uint16) (b []byte) {
	for _, v := range v {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// sized puts a length of n bytes before b.
func sized(n int, b []byte) []byte {
	l := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	return append(l[4-n:], b...)
}

func extension(id uint16, body []byte) []byte { return append(u16(id), sized(2, body)...) }

// message is the handshake message.
func (h *hello) message() []byte {
	var ext []byte
	ext = append(ext, extension(10, sized(2, u16(h.curves...)))...)                            // supported_groups
	ext = append(ext, extension(11, []byte{1, 0})...)                                          // ec_point_formats
	ext = append(ext, extension(13, sized(2, u16(0x0403, 0x0804, 0x0401, 0x0203, 0x0201)))...) // signature_algorithms, SHA-1 last
	ext = append(ext, extension(0xff01, []byte{0})...)                                         // renegotiation_info
	if h.ems {
		ext = append(ext, extension(23, nil)...)
	}
	if h.alpn != nil {
		var names []byte
		for _, n := range h.alpn {
			names = append(names, sized(1, []byte(n))...)
		}
		ext = append(ext, extension(16, sized(2, names))...)
	}
	legacy := h.version
	if h.version == tls13 {
		legacy = tls12
		ext = append(ext, extension(43, sized(1, u16(tls13)))...)
		ext = append(ext, extension(51, sized(2, append(u16(29), sized(2, h.share)...)))...)
	}
	body := append(u16(legacy), h.random[:]...)
	body = append(body, 0) // no session
	body = append(body, sized(2, u16(h.suites...))...)
	body = append(body, 1, 0) // no compression
	if h.version > ssl3 {
		body = append(body, sized(2, ext)...)
	}
	return append([]byte{1}, sized(3, body)...)
}

func (h *hello) record() []byte {
	if h.version == ssl2 {
		var suites []byte
		for _, s := range h.suites {
			suites = append(suites, 0, byte(s>>8), byte(s))
		}
		body := append([]byte{1}, u16(tls12, uint16(len(suites)), 0, 16)...)
		body = append(append(body, suites...), h.random[:16]...)
		return append([]byte{0x80 | byte(len(body)>>8), byte(len(body))}, body...)
	}
	return record(22, min(h.version, tls10), h.message())
}

func record(kind byte, version uint16, b []byte) []byte {
	return append(append([]byte{kind}, u16(version)...), sized(2, b)...)
}

// answer to a ClientHello.
type answer struct {
	alert   int // -1: none
	version uint16
	suite   uint16
}

func (a answer) String() string {
	if a.alert >= 0 {
		name := map[int]string{10: "unexpected_message", 40: "handshake_failure", 70: "protocol_version", 71: "insufficient_security", 50: "decode_error", 120: "no_application_protocol"}[a.alert]
		return fmt.Sprintf("alert %d %s", a.alert, name)
	}
	return fmt.Sprintf("accepted as %04x %04x", a.version, a.suite)
}

// offer sends a ClientHello and reads the first record of the answer.
func offer(addr string, first []byte) (answer, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(first); err != nil {
		return answer{}, err
	}
	kind, body, err := readRecord(c)
	switch {
	case err != nil:
		return answer{}, err
	case kind == 21 && len(body) == 2:
		return answer{alert: int(body[1])}, nil
	case kind == 22 && len(body) > 40 && body[0] == 2:
		rest := body[4:]
		session := int(rest[34])
		return answer{-1, binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[35+session:])}, nil
	}
	return answer{}, fmt.Errorf("a record of kind %d: %x", kind, body)
}

func readRecord(r io.Reader) (kind byte, body []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint16(header[3:]))
	_, err = io.ReadFull(r, body)
	return header[0], body, err
}

// handshakeMessages reads the server's flight up to ServerHelloDone.
func handshakeMessages(r io.Reader) (all [][]byte, err error) {
	var pending bytes.Buffer
	for {
		kind, body, err := readRecord(r)
		if err != nil {
			return nil, err
		}
		if kind != 22 {
			return nil, fmt.Errorf("a record of kind %d: %x", kind, body)
		}
		pending.Write(body)
		for pending.Len() >= 4 {
			b := pending.Bytes()
			n := 4 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
			if len(b) < n {
				break
			}
			m := bytes.Clone(pending.Next(n))
			all = append(all, m)
			if m[0] == 14 {
				return all, nil
			}
		}
		if len(all) > 16 {
			return nil, errors.New("too many messages")
		}
	}
}

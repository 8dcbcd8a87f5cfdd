package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strings"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Load reads the file state. Without one, or with a damaged one, it is nil.
func (d *Dir) Load() (*statev1.AgentState, error) {
	b, err := d.read("state")
	if err != nil || b == nil {
		return nil, err
	}
	s, err := decodeState(b)
	if err != nil {
		d.setAside("state", err)
		return nil, nil
	}
	return s, nil
}

// Save replaces the file state, durably.
func (d *Dir) Save(s *statev1.AgentState) error {
	b, err := encodeState(s)
	if err != nil {
		return err
	}
	return d.write("state", b)
}

func encodeState(s *statev1.AgentState) ([]byte, error) { return encode(s) }

func decodeState(b []byte) (*statev1.AgentState, error) {
	s := &statev1.AgentState{}
	if err := decode(b, s); err != nil {
		return nil, err
	}
	return s, nil
}

// message is one that a file holds.
type message interface {
	SizeVT() int
	MarshalToVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// encode puts a message behind its checksum.
func encode(m message) ([]byte, error) {
	b := make([]byte, 4+m.SizeVT())
	if _, err := m.MarshalToVT(b[4:]); err != nil {
		return nil, fmt.Errorf("encode the agent's state: %w", err)
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b, nil
}

// decode reads what encode made. With an error, m has what could still be read.
func decode(b []byte, m message) error {
	if len(b) < 4 {
		return errors.New("it is cut short")
	}
	err := m.UnmarshalVT(b[4:])
	switch {
	case crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b):
		return errors.New("its checksum is wrong")
	case err != nil:
		return errors.New("it does not parse")
	}
	return nil
}

// RootPin is the pin that the trust starts from; ok is false where none was kept.
func (d *Dir) RootPin() (pin [sha256.Size]byte, ok bool, err error) {
	b, err := d.read("root.pin")
	if err != nil || b == nil {
		return pin, false, err
	}
	if text := strings.TrimSpace(string(b)); len(text) == hex.EncodedLen(len(pin)) {
		if _, err := hex.Decode(pin[:], []byte(text)); err == nil {
			return pin, true, nil
		}
	}
	d.setAside("root.pin", errors.New("it is no SHA-256"))
	return pin, false, nil
}

// SaveRootPin keeps the pin.
func (d *Dir) SaveRootPin(pin [sha256.Size]byte) error {
	return d.write("root.pin", []byte(hex.EncodeToString(pin[:])+"\n"))
}

// Token is the enrolment token that was kept here; ok is false where there is none.
func (d *Dir) Token() (t identity.Token, ok bool, err error) {
	b, err := d.read("token")
	if err != nil || b == nil {
		return t, false, err
	}
	t, err = identity.ParseToken(string(b))
	if err != nil {
		d.setAside("token", err)
		return t, false, nil
	}
	return t, true, nil
}

// SaveToken keeps a token until the identity is here, so that a crash in between needs no person.
func (d *Dir) SaveToken(t identity.Token) error { return d.write("token", []byte(t.Reveal()+"\n")) }

// ForgetToken removes the token: an identity has no use for it.
func (d *Dir) ForgetToken() error { return d.remove("token") }

// Reset forgets everything but what was set aside: this machine is unknown from now on.
func (d *Dir) Reset() error {
	return errors.Join(
		d.remove("identity/agent.crt", "identity/agent.key", "pending/agent.crt", "pending/enroll", "pending/renew", "pending/agent.key"),
		d.remove("token", "state", "root.pin"),
		d.dropJournal(),
		d.dropContent(),
	)
}

// Has tells whether a person who may read the directory would find an identity there.
func Has(path string) bool {
	_, err := os.Stat((&Dir{path: path}).file("identity/agent.crt"))
	return err == nil
}

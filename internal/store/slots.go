package store

import (
	"crypto/sha256"
	"encoding/pem"
	"sync"

	certv1 "k8s.io/api/certificates/v1"
)

// slot is what is kept of a CertificateSigningRequest for an agent.
type slot struct {
	// question is the digest of request and proof.
	question [sha256.Size]byte
	version  uint64
	// The answer: certificate (DER), or denied; neither while there is none.
	certificate []byte
	denied      *Denied
}

func slotOf(r *certv1.CertificateSigningRequest) slot {
	s := slot{question: questionOf(r), version: versionOf(r), denied: denialOf(r)}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		s.certificate = block.Bytes
	}
	return s
}

// questionOf is the digest of all that a request asks.
func questionOf(r *certv1.CertificateSigningRequest) [sha256.Size]byte {
	request, proof := sha256.Sum256(r.Spec.Request), sha256.Sum256([]byte(r.Annotations[proofAnnotation]))
	return sha256.Sum256(append(request[:], proof[:]...))
}

// denialOf is the refusal in a request; nil if there is none. What was approved already cannot be denied: it is marked as failed.
func denialOf(r *certv1.CertificateSigningRequest) *Denied {
	for _, c := range r.Status.Conditions {
		if c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed {
			return &Denied{Reason: c.Reason, Message: c.Message}
		}
	}
	return nil
}

// slots are the certificate requests of agents, of which there are 4,096 at most.
type slots struct {
	mu      sync.Mutex
	byName  map[string]slot
	waiters map[string]chan struct{} // closed at the next change
}

func newSlots() *slots { return &slots{byName: map[string]slot{}, waiters: map[string]chan struct{}{}} }

// look is what a slot holds, and what closes when that changes.
func (s *slots) look(name string) (held slot, occupied bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, occupied = s.byName[name]
	c := s.waiters[name]
	if c == nil {
		c = make(chan struct{})
		s.waiters[name] = c
	}
	return held, occupied, c
}

func (s *slots) event(r *certv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[r.Name] = slotOf(r)
	s.tell(r.Name)
}

func (s *slots) drop(r *certv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byName, r.Name)
	s.tell(r.Name)
}

func (s *slots) replace(all []*certv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName = make(map[string]slot, len(all))
	for _, r := range all {
		s.byName[r.Name] = slotOf(r)
	}
	for name := range s.waiters {
		s.tell(name)
	}
}

func (s *slots) tell(name string) {
	if c := s.waiters[name]; c != nil {
		close(c)
		delete(s.waiters, name)
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *suite) tryTrust(ctx context.Context) error {
	if err := s.must("verify the trust bundles from the token's pin, before anything else is said", s.meet(ctx)); err != nil {
		return err
	}
	s.say("        fleet %s, trust version %d", s.trust.fleetID, s.trust.version)
	chain, err := s.askTrust(ctx, 0)
	if err == nil {
		if _, wrong := follow(sha256.Sum256(nil), chain); wrong == nil {
			err = errors.New("the chain was accepted")
		}
	}
	s.check("refuse the chain by another pin", err)

	newest := "after=" + strconv.FormatUint(s.trust.version, 10)
	get := func(query, accept string, header http.Header) (*answer, error) {
		return s.verified.do(ctx, call{method: http.MethodGet, path: "/agent/v1/trust", query: query, accept: accept, header: header}, 256<<10)
	}
	a, err := get(newest, typeJSON, nil)
	var reply trustReply
	if err == nil {
		err = a.read(&reply)
	}
	if err == nil && len(reply.Bundles) > 0 {
		err = fmt.Errorf("%d bundles are newer than the newest", len(reply.Bundles))
	}
	s.check("nothing is newer than the newest bundle", err)

	a, err = get("after=0", typeProtobuf, nil)
	if err == nil && (a.status != http.StatusOK || a.header.Get("Content-Type") != typeProtobuf) {
		err = fmt.Errorf("%d as %q", a.status, a.header.Get("Content-Type"))
	}
	s.check("trust in protobuf, when Accept asks for it", err)

	if a, err = get("after=0", typeJSON, nil); err == nil {
		tag := a.header.Get("ETag")
		a, err = get("after=0", typeJSON, http.Header{"If-None-Match": {tag}})
		if err == nil && (tag == "" || a.status != http.StatusNotModified || len(a.body) > 0) {
			err = fmt.Errorf("with the ETag %q it is answered with %s", tag, a)
		}
	}
	s.check("304 for what did not change", err)

	a, err = get("after=x", typeJSON, nil)
	s.expect("after that is no number", a, err, "malformed")
	return nil
}

// expect checks that a request was refused with a problem.
func (s *suite) expect(what string, a *answer, err error, name string) {
	if err == nil {
		err = a.refused(name)
	}
	s.check(what+" → "+name, err)
}

func (s *suite) tryTLS(ctx context.Context) error {
	state, err := s.handshake(ctx, &tls.Config{RootCAs: s.trust.serverCA, MinVersion: tls.VersionTLS12})
	if err == nil && (state.Version != tls.VersionTLS12 || state.NegotiatedProtocol != "") {
		err = fmt.Errorf("%s, protocol %q", tls.VersionName(state.Version), state.NegotiatedProtocol)
	}
	s.check("a client that can do TLS 1.3 is served TLS 1.2", err)
	for _, suite := range suites {
		state, err := s.handshake(ctx, &tls.Config{RootCAs: s.trust.serverCA, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if err == nil && state.CipherSuite != suite {
			err = errors.New(tls.CipherSuiteName(state.CipherSuite))
		}
		s.check(tls.CipherSuiteName(suite), err)
	}
	state, err = s.handshake(ctx, &tls.Config{RootCAs: s.trust.serverCA, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	if err == nil && state.NegotiatedProtocol != "http/1.1" {
		err = fmt.Errorf("protocol %q", state.NegotiatedProtocol)
	}
	s.check("HTTP/1.1 is chosen where HTTP/2 is offered", err)

	cbc := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}
	for _, no := range []struct {
		what   string
		config *tls.Config
	}{
		{"TLS 1.3 alone is refused", &tls.Config{MinVersion: tls.VersionTLS13}},
		{"TLS 1.1 and older are refused", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
		{"suites without ECDHE or AEAD are refused", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: cbc}},
		{"HTTP/2 alone is refused", &tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}},
		{"this agent refuses a server of another CA", &tls.Config{RootCAs: x509.NewCertPool(), MaxVersion: tls.VersionTLS12}},
		{"this agent refuses a server of another name", &tls.Config{ServerName: "elsewhere.invalid", MaxVersion: tls.VersionTLS12}},
	} {
		if no.config.RootCAs == nil {
			no.config.RootCAs = s.trust.serverCA
		}
		state, err := s.handshake(ctx, no.config)
		if err == nil {
			err = fmt.Errorf("a connection came about: %s, %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
		} else if _, unreachable := errors.AsType[*net.OpError](err); !unreachable || strings.Contains(err.Error(), "remote error: tls") {
			err = nil // refused by one side's TLS, and not by the network
		}
		s.check(no.what, err)
	}
	return nil
}

func (s *suite) handshake(ctx context.Context, config *tls.Config) (tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if config.ServerName == "" {
		config.ServerName = s.server.Hostname()
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.server.Host)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = conn.Close() }() // nothing was said
	state, ok := conn.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, errors.New("no TLS")
	}
	return state.ConnectionState(), nil
}

// tryRequests sends what any route refuses, whoever asks.
func (s *suite) tryRequests(ctx context.Context) error {
	const enroll = "/agent/v1/enroll"
	post := func(change func(*call)) call {
		q := call{method: http.MethodPost, path: enroll, body: []byte(`{}`), header: http.Header{}}
		change(&q)
		return q
	}
	for _, r := range []struct {
		what string
		q    call
		name string
	}{
		{"no agent version", post(func(q *call) { q.header["Rollcall-Agent-Version"] = nil }), "malformed"},
		{"an agent version that is no semantic version", post(func(q *call) { q.header.Set("Rollcall-Agent-Version", "eight") }), "malformed"},
		{"an agent version of 65 bytes", post(func(q *call) { q.header.Set("Rollcall-Agent-Version", "8.0.0+"+strings.Repeat("b", 59)) }), "malformed"},
		{"a body without length", post(func(q *call) { q.chunked = true }), "length-required"},
		{"no body", post(func(q *call) { q.body = nil; q.contentType = typeJSON }), "length-required"},
		{"a compressed body", post(func(q *call) { q.header.Set("Content-Encoding", "gzip") }), "media-type-unsupported"},
		{"a body of another type", post(func(q *call) { q.contentType = "text/plain" }), "media-type-unsupported"},
		{"an answer of another type", post(func(q *call) { q.accept = "text/html" }), "media-type-unsupported"},
		{"a request from a web page", post(func(q *call) { q.header.Set("Origin", "https://example.com") }), "malformed"},
		{"an expectation that nobody meets", post(func(q *call) { q.header.Set("Expect", "a-miracle") }), "malformed"},
		{"a header block of more than 8 KiB", post(func(q *call) { q.header.Set("X-Padding", strings.Repeat("x", 8<<10)) }), "payload-too-large"},
		{"garbage", post(func(q *call) { q.body = []byte("\x00{") }), "malformed"},
		{"garbage as protobuf", post(func(q *call) { q.body, q.contentType = []byte("\xff\xff"), typeProtobuf }), "malformed"},
		{"a body of 16 KiB, which is read", post(func(q *call) { q.body = bytes.Repeat([]byte(" "), 16<<10) }), "malformed"},
		{"a body one byte larger", post(func(q *call) { q.body = bytes.Repeat([]byte(" "), 16<<10+1) }), "payload-too-large"},
		{"a message that lacks a required field", post(func(*call) {}), "malformed"},
		{"a route that there is not", post(func(q *call) { q.path = "/agent/v1/nothing" }), "not-found"},
		{"a place that is kept", post(func(q *call) { q.path = "/agent/v1/events" }), "not-found"},
		{"another version of the protocol", post(func(q *call) { q.path = "/agent/v2/enroll" }), "protocol-version-unsupported"},
		{"another method", call{method: http.MethodGet, path: enroll}, "method-not-allowed"},
		{"trust with another method", post(func(q *call) { q.path = "/agent/v1/trust" }), "method-not-allowed"},
		{"a heartbeat without a certificate", post(func(q *call) { q.path = "/agent/v1/heartbeat" }), "certificate-required"},
		{"an update of an action without a certificate", post(func(q *call) { q.path = pathActions }), "certificate-required"},
		{"an artifact without a certificate", artifactCall("sha256:" + strings.Repeat("0", 64)), "certificate-required"},
		{"a session without a certificate", upgrade(nil), "certificate-required"},
		{"a session of an old agent, whoever it is", upgrade(func(h http.Header) { h.Set("Rollcall-Agent-Version", "6.0.4") }), "agent-version-unsupported"},
	} {
		a, err := s.verified.do(ctx, r.q, 16<<10)
		s.expect(r.what, a, err, r.name)
	}
	return nil
}

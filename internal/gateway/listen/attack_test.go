package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// victim is set in the process that is attacked: one of its own, so that its memory is its own.
const victim = "ROLLCALL_TEST_VICTIM"

// bound of the victim's memory, all of it, whatever is done to it.
const bound = raced * (96 << 20)

func serveAsVictim() {
	certificate := selfSigned(&testing.B{}, "gateway")
	s := New(Config{
		Log:         logr.Discard(),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil },
		Welcome: func(state *tls.ConnectionState, peer *Peer) http.Handler {
			name := ""
			if len(state.PeerCertificates) > 0 {
				name = state.PeerCertificates[0].Subject.CommonName
			}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				limit := int64(wire.MaxHeartbeatBytes)
				if name == "" {
					limit = wire.MaxEnrollBytes
					w.Header().Set("Connection", "close")
				} else {
					peer.Vouch(name)
				}
				body, problem := wire.ReadBody(r, limit)
				if problem != nil {
					problem.Write(w)
					return
				}
				_, _ = fmt.Fprintf(w, "%d", len(body))
			})
		},
	})
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		os.Exit(1)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, _ = fmt.Println(port) //nolint:forbidigo // this is how the test learns the port
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
		os.Exit(0)
	}()
	_ = s.Serve(l)
}

// startVictim returns the port and a function that reads the peak of the process' resident memory.
func startVictim(t *testing.T) (port string, peak func() int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victim+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), func() int {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil {
			t.Fatalf("the victim died: %v", err)
		}
		m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
		if m == nil {
			t.Skip("this kernel does not tell a process' peak memory")
		}
		kb, _ := strconv.Atoi(string(m[1]))
		return kb << 10
	}
}

// an attacker opens a connection, does its worst, and leaves when its context ends or the server ends it.
type attacker struct {
	name  string
	count int
	do    func(ctx context.Context, c net.Conn)
}

func hold(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, c)
}

// drip writes b slowly and for ever.
func drip(ctx context.Context, c io.Writer, b string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := c.Write([]byte{b[i%len(b)]}); err != nil {
				return
			}
		}
	}
}

func overTLS(do func(context.Context, *tls.Conn)) func(context.Context, net.Conn) {
	return func(ctx context.Context, raw net.Conn) {
		c := tls.Client(raw, clientTLS())
		if c.HandshakeContext(ctx) == nil {
			do(ctx, c)
		}
	}
}

func attackers(t *testing.T) []attacker {
	first := newHello(t, tls12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).record()
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	large := append(record(22, tls12, append([]byte{11}, sized(3, make([]byte, 16000))...)), garbage...)
	return []attacker{
		{"half-open", 600, hold},
		{"a hello, then nothing", 300, func(ctx context.Context, c net.Conn) { _, _ = c.Write(first); hold(ctx, c) }},
		{"a hello, a byte at a time", 100, func(ctx context.Context, c net.Conn) { drip(ctx, c, string(first), 50*time.Millisecond) }},
		{"garbage", 20, func(_ context.Context, c net.Conn) { _, _ = c.Write(garbage) }},
		{"an endless certificate", 20, func(ctx context.Context, c net.Conn) { _, _ = c.Write(append(first, large...)); hold(ctx, c) }},
		{"slow headers", 300, overTLS(func(ctx context.Context, c *tls.Conn) {
			drip(ctx, c, "GET /agent/v1/trust HTTP/1.1\r\nX-Slow: "+strings.Repeat("x", 1000), 100*time.Millisecond)
		})},
		{"slow bodies", 2000, overTLS(func(ctx context.Context, c *tls.Conn) {
			_, _ = io.WriteString(c, "POST /agent/v1/enroll HTTP/1.1\r\nHost: g\r\nContent-Length: 16384\r\n\r\n"+strings.Repeat("x", 16000))
			drip(ctx, c, "x", 200*time.Millisecond)
		})},
		{"endless headers", 20, overTLS(func(_ context.Context, c *tls.Conn) {
			for _, err := c.Write(garbage); err == nil; _, err = io.WriteString(c, "X: "+strings.Repeat("x", 1<<14)) {
			}
		})},
		{"endless bodies", 20, overTLS(func(_ context.Context, c *tls.Conn) {
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000000\r\n\r\n")
			for ; err == nil; _, err = c.Write(garbage) {
			}
		})},
		{"answers that nobody reads", 50, overTLS(func(ctx context.Context, c *tls.Conn) {
			var err error
			for err == nil && ctx.Err() == nil {
				_, err = io.WriteString(c, "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n\r\nx")
			}
		})},
	}
}

// TestGoodAgentsBeatOnUnderAttack: 20 agents connect anew for every heartbeat while 3,400 hostile clients do their worst and come back when they
// are shaken off. Ten agents have an address of their own: nothing must happen to them. Ten share the address of half of the attackers, and
// must get through at some attempts.
func TestGoodAgentsBeatOnUnderAttack(t *testing.T) {
	const each, atLeast, atMost = 5, 5 * time.Second, time.Minute // heartbeats of each agent; how long the attack lasts
	port, peak := startVictim(t)
	quiet := peak()
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	var hostile atomic.Int64
	var enemies, friends sync.WaitGroup
	for _, a := range attackers(t) {
		for i := range a.count / raced {
			from := fmt.Sprintf("127.0.0.%d", 1+i%2*(2+i%7))
			enemies.Go(func() {
				for ctx.Err() == nil {
					hostile.Add(1)
					attack(ctx, from, port, a)
					wait(ctx, 500*time.Millisecond+rand.N(time.Second))
				}
			})
		}
	}
	wait(ctx, time.Second) // let it be under way
	scores := make([]score, 20)
	began := time.Now()
	for i := range scores {
		certificate := selfSigned(t, fmt.Sprintf("agent-%d", i))
		friends.Go(func() {
			for s := &scores[i]; ctx.Err() == nil && (len(s.took) < each || time.Since(began) < atLeast); wait(ctx, 200*time.Millisecond) {
				s.try(func() error { return beat(fmt.Sprintf("127.0.%d.1", i%2), port, certificate) })
			}
		})
	}
	friends.Wait()
	memory := peak()
	cancel()
	enemies.Wait()
	t.Logf("%d hostile connections; memory %.1f MiB at rest, %.1f MiB at its peak, bound %d MiB", hostile.Load(), float64(quiet)/(1<<20), float64(memory)/(1<<20), bound>>20)
	if memory > bound {
		t.Errorf("memory grew to %d bytes, the bound is %d", memory, bound)
	}
	for kind, name := range []string{"that share the attackers' address", "with an address of their own"} {
		var all score
		for i := kind; i < len(scores); i += 2 {
			if s := scores[i]; len(s.took) < each {
				t.Errorf("agent %d, one of those %s, beat only %d times in %s, and failed %d times", i, name, len(s.took), atMost, s.failed)
			}
			all = score{all.failed + scores[i].failed, append(all.took, scores[i].took...)}
		}
		t.Logf("agents %s: %s", name, all)
		if kind == 1 && all.failed*20 > len(all.took) {
			t.Errorf("%d attempts of agents %s failed, more than one in 20", all.failed, name)
		}
	}
}

// score is how an agent fared.
type score struct {
	failed int
	took   []time.Duration
}

func (s *score) try(beat func() error) {
	began := time.Now()
	if beat() != nil {
		s.failed++
		return
	}
	s.took = append(s.took, time.Since(began))
}

func (s score) String() string {
	slices.Sort(s.took)
	q := func(q float64) time.Duration { return s.took[int(q*float64(len(s.took)-1))].Round(time.Millisecond) }
	if len(s.took) == 0 {
		return fmt.Sprintf("no heartbeat, %d failed attempts", s.failed)
	}
	return fmt.Sprintf("%d heartbeats, %d failed attempts, took %s (median), %s (p99)", len(s.took), s.failed, q(.5), q(.99))
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func attack(ctx context.Context, from, port string, a attacker) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	a.do(ctx, c)
}

// beat is one heartbeat over a connection of its own.
func beat(from, port string, certificate tls.Certificate) error {
	config := clientTLS()
	config.Certificates = []tls.Certificate{certificate}
	d := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}, Config: config}
	c, err := d.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "POST /agent/v1/heartbeat HTTP/1.1\r\nHost: g\r\nContent-Length: 700\r\nConnection: close\r\n\r\n"+strings.Repeat("x", 700)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "700" {
		return fmt.Errorf("got %q, %w", body, err)
	}
	return nil
}

package transport

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(footprint); kind != "" {
		serveFootprint(kind)
		return
	}
	goleak.VerifyTestMain(m)
}

// serve runs f with the server's end of each session, until the test ends; it answers what Accept refuses.
func serve(t testing.TB, f func(*Conn)) *httptest.Server {
	t.Helper()
	var running sync.WaitGroup
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, problem := Accept(w, r)
		if problem != nil {
			problem.Write(w)
			return
		}
		running.Go(func() {
			defer c.CloseNow()
			f(c)
		})
	}))
	s.StartTLS()
	t.Cleanup(func() {
		s.Close()
		running.Wait()
	})
	return s
}

// echo sends every message back.
func echo(c *Conn) {
	for {
		m, err := c.Read()
		if err != nil {
			return
		}
		if c.Write(m) != nil {
			return
		}
	}
}

func dial(t testing.TB, s *httptest.Server, json bool) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), DialOptions{URL: s.URL, Transport: s.Client().Transport, Header: http.Header{}, JSON: json})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseNow)
	return c
}

func TestMessagesOfEverySize(t *testing.T) {
	s := serve(t, echo)
	for _, json := range []bool{false, true} {
		c := dial(t, s, json)
		if c.JSON() != json {
			t.Errorf("JSON() is %v", c.JSON())
		}
		for _, n := range []int{0, 1, 12, 13, 14, 15, 16, 17, 125, 126, 127, 4095, 4096, 4097, 1<<14 - 4, 1 << 14, 1<<16 - 1, 1 << 16, wire.MaxAgentMessageBytes} {
			want := bytes.Repeat([]byte{'a' + byte(n%26)}, n)
			if err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			got, err := c.Read()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came back as %d: %v", n, len(got), err)
			}
		}
	}
}

func TestWhoClosesIsToldTheSame(t *testing.T) {
	ends := make(chan error, 1)
	s := serve(t, func(c *Conn) {
		m, err := c.Read()
		if err == nil && string(m) == "go" {
			c.Close(wire.CloseDraining, "draining; retry=7")
		}
		_, err = c.Read()
		ends <- err
	})
	check := func(who string, err error, code wire.CloseCode, reason string, local bool) {
		t.Helper()
		var e *CloseError
		if !errors.As(err, &e) || e.Code != code || e.Reason != reason || e.Local != local {
			t.Errorf("%s: %v, want %d %s, local %v", who, err, code, reason, local)
		}
	}
	c := dial(t, s, false)
	c.Close(wire.CloseNormal, "")
	_, err := c.Read()
	check("the client that closed", err, 1000, "", true)
	check("its server", <-ends, 1000, "", false)
	if err := c.Write([]byte("x")); !errors.As(err, new(*CloseError)) {
		t.Errorf("a message after the close: %v", err)
	}

	c = dial(t, s, false)
	if err := c.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read()
	check("the client that was closed", err, 1012, "draining; retry=7", false)
	check("the server that closed", <-ends, 1012, "draining; retry=7", true)
	var e *CloseError
	if errors.As(err, &e) && (e.Problem().Name != wire.Draining || e.Problem().RetryAfter != 7*time.Second) {
		t.Errorf("the problem is %+v", e.Problem())
	}
}

func TestRefusedUpgrades(t *testing.T) {
	var answer http.HandlerFunc
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer s.Close()
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		text    string
		problem wire.Name
		retry   time.Duration
	}{
		"by the gateway": {
			func(w http.ResponseWriter, _ *http.Request) {
				(&wire.Problem{Name: wire.AgentVersionUnsupported, Minimum: "6.1", RetryAfter: 90 * time.Second, Detail: strings.Repeat("long ", 190)}).Write(w)
			}, "the upgrade was answered with 403 (agent-version-unsupported)", wire.AgentVersionUnsupported, 90 * time.Second,
		},
		"by a proxy": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			http.Error(w, "<html>", http.StatusForbidden)
		}, "the upgrade was answered with 403", "", 30 * time.Second},
		"by a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "the upgrade was answered with 307", "", 0},
		"by success": {func(w http.ResponseWriter, _ *http.Request) {}, "the upgrade was answered with 200", "", 0},
	} {
		answer = tc.answer
		_, err := Dial(t.Context(), DialOptions{URL: s.URL, Transport: s.Client().Transport, Header: http.Header{}})
		var e *UpgradeError
		if !errors.As(err, &e) || e.Error() != tc.text || e.RetryAfter != tc.retry || (e.Problem == nil) != (tc.problem == "") {
			t.Errorf("%s: %v (%+v)", name, err, e)
		} else if e.Problem != nil && e.Problem.Name != tc.problem {
			t.Errorf("%s: %+v", name, e.Problem)
		}
	}
}

func TestDialKeepsToItsContext(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, DialOptions{URL: s.URL, Transport: s.Client().Transport})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// Whoever closes a session from elsewhere does not pull the message away from under the one who handles it.
func TestAMessageLastsUntilTheNextRead(t *testing.T) {
	s := serve(t, echo)
	var held [][]byte
	for i := range 50 {
		c := dial(t, s, false)
		if err := c.Write(bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
			t.Fatal(err)
		}
		m, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, m)
		c.Close(wire.CloseNormal, "")
	}
	for i, m := range held {
		if !bytes.Equal(m, bytes.Repeat([]byte{byte(i)}, 100)) {
			t.Errorf("message %d became another's: % x", i, m[:10])
		}
	}
}

// Everybody at once: for the race detector, and for goleak.
func TestManyWritersAndClosers(t *testing.T) {
	s := serve(t, func(c *Conn) {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for range 20 {
					if c.Write(bytes.Repeat([]byte("x"), 40*i)) != nil {
						return
					}
				}
				if i == 3 {
					c.Close(wire.CloseDraining, "draining")
				}
				if i == 5 {
					c.CloseNow()
				}
			})
		}
		echo(c)
		all.Wait()
	})
	for range 20 {
		c := dial(t, s, false)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for c.Write([]byte("hello")) == nil { // until it is over
				}
			})
		}
		for {
			if _, err := c.Read(); err != nil {
				break
			}
		}
		all.Wait()
	}
}

// Messages and the library's answers to pings are frames of two writers: no frame begins within another.
func TestPongsAmongMessages(t *testing.T) {
	const writers, each, pings = 4, 50, 50
	s := serve(t, func(c *Conn) {
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() {
				for n := range each {
					if err := c.Write(bytes.Repeat([]byte("m"), i*n*200)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Go(func() { echo(c) })
		all.Wait()
	})
	c := connect(t, s, wire.Subprotocol, nil)
	go func() {
		for range pings {
			_, _ = c.Write(client(fin|opPing, strings.Repeat("p", maxControl)))
		}
	}()
	messages, pongs := 0, 0
	for messages < writers*each || pongs < pings {
		switch f, err := readFrame(c.in); {
		case err != nil:
			t.Fatalf("after %d messages and %d pongs: %v", messages, pongs, err)
		case f.first == fin|opBinary && f.payload == strings.Repeat("m", len(f.payload)):
			messages++
		case f.first == fin|opPong && f.payload == strings.Repeat("p", maxControl):
			pongs++
		default:
			t.Fatalf("after %d messages and %d pongs: a frame %#x of %d bytes", messages, pongs, f.first, len(f.payload))
		}
	}
}

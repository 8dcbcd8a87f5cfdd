package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGatewayName(t *testing.T) {
	allowed := regexp.MustCompile(`^gw-[a-z0-9]{5}-[a-z0-9]{5}$`) // of the admission policy's pattern, and of the design's
	for pod, want := range map[string]string{
		"rollcall-gateway-5c9d7b8f4d-x2k7q": "gw-x2k7q-", "laptop": "gw-aptop-", "vm": "gw-vm000-", "": "gw-00000-", "Host.Example": "gw-ample-", "ünïcödé": "gw-ncd00-",
	} {
		name, again := gatewayName(pod), gatewayName(pod)
		if !allowed.MatchString(name) || !strings.HasPrefix(name, want) {
			t.Errorf("%q: %s", pod, name)
		}
		if name == again {
			t.Errorf("two starts have one name, %s", name)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // in the error; "": none
	}{
		{[]string{"--names=localhost,127.0.0.1"}, ""},
		{nil, "--names is missing"},
		{[]string{"--names=x", "--drain-timeout=0s"}, "--drain-timeout must be more than 0"},
		{[]string{"--names=x", "--max-handshakes=-1"}, "--max-handshakes must be more than 0"},
		{[]string{"--names=x", "--write-rate=0"}, "--write-rate must be more than 0"},
		{[]string{"--names=x", "--session-slack=0s", "--session-rate=-1"}, "--session-slack must be more than 0"},
		{[]string{"--names=x", "--log-level=loud"}, "--log-level"},
		{[]string{"--names=x", "more"}, `unexpected argument "more"`},
		{[]string{"--nmaes=x"}, "unknown flag"},
	} {
		_, err := parse(test.args)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

// In a Pod the gateway finds the API server without a token of the Pod's, which is another process's.
func TestFindsTheAPIServerOfItsPod(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := fromPod(dir); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("without a CA: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := fromPod(dir)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://[fd00::1]:443" || config.CAFile != filepath.Join(dir, "ca.crt") || config.BearerToken+config.BearerTokenFile != "" {
		t.Errorf("%+v", config)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := fromPod(dir); !errors.Is(err, rest.ErrNotInCluster) {
		t.Errorf("outside of a Pod: %v", err)
	}
}

// Without an API server and without a token for it the gateway comes up, lives, says what it waits for, and stops when it is told to.
func TestStartsAndStopsWithoutAPIServer(t *testing.T) {
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	dead := free(t)
	if err := os.WriteFile(kubeconfig, []byte(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"https://`+dead+`"}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],"current-context":"c"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	agents, health := free(t), free(t)
	o, err := parse([]string{"--kubeconfig=" + kubeconfig, "--token-file=" + filepath.Join(dir, "token"), "--names=localhost", "--listen=" + agents, "--health-listen=" + health, "--drain-timeout=2s"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o, logr.Discard()) }()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	eventually(t, func() bool { code, _ := ask(t, "http://"+health+"/livez"); return code == http.StatusOK })
	code, body := ask(t, "http://"+health+"/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "serving certificate") || !strings.Contains(body, "Endpoints") {
		t.Errorf("readyz: %d %q", code, body)
	}
	if _, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", agents); err == nil {
		t.Error("a handshake without a serving certificate")
	}
	began := time.Now()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not stop")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %s to stop; --drain-timeout is 2s", took)
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--listen", "--health-listen"} {
		args := []string{"--kubeconfig=" + kubeconfig, "--names=localhost", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", flag + "=" + l.Addr().String()}
		o, err := parse(args)
		if err != nil {
			t.Fatal(err)
		}
		if err := run(t.Context(), o, logr.Discard()); err == nil || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func ask(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("it did not happen within 20 s")
}

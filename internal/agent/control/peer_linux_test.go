package control

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// askAs asks as another user, in a process of its own.
func askAs(t *testing.T, uid uint32, dir string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	place, err := os.MkdirTemp("", "rc") //nolint:usetesting // that one is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(place) })
	if err := os.Chmod(place, 0o755); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(place, "ask")
	copyFile(t, copied, exe)
	cmd := exec.CommandContext(t.Context(), copied)
	cmd.Env = append(os.Environ(), askEnv+"="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// Another user gets nothing: the directory keeps them out; and where somebody opened directory and socket to all, the kernel tells.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir := serve(t)
	if got := askAs(t, 65534, dir); !strings.HasPrefix(got, ErrNotPermitted.Error()) || !strings.Contains(got, "cannot be opened") {
		t.Errorf("another user got %q", got)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o755, SocketPath(dir): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got := askAs(t, 65534, dir); !strings.HasPrefix(got, ErrNotPermitted.Error()) || !strings.Contains(got, "not to user 65534") {
		t.Errorf("another user, past the permissions, got %q", got)
	}
	if got := askAs(t, 0, dir); got != "<nil>" {
		t.Errorf("the own user got %q", got)
	}
}

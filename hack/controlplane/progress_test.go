package controlplane

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// play shows what a build of 2,311 packages looks like.
func play(p *progress) {
	p.Step("kube-apiserver", "counting packages")
	time.Sleep(2 * time.Second)
	for done := 200; done < 2311; done += 400 {
		p.Count(packages(done, 2311), done, 2311)
		time.Sleep(12 * time.Second)
	}
	p.Count("all of 2,311 packages, linking", 2311, 2311)
	time.Sleep(7 * time.Second)
	p.End("2,311 packages")
	p.Close()
}

func TestProgressWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := startProgress(&out, false)
		p.Say("building %s", "it")
		play(p)
		want := `building it
  kube-apiserver           200 of 2,311 packages   2s..
  kube-apiserver           600 of 2,311 packages   14s..
  kube-apiserver           1,000 of 2,311 packages   26s..
  kube-apiserver           1,400 of 2,311 packages   38s..
  kube-apiserver           1,800 of 2,311 packages   50s..
  kube-apiserver           2,200 of 2,311 packages   1m2s..
  kube-apiserver           all of 2,311 packages, linking   1m14s.
  kube-apiserver           2,311 packages   1m21s
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("without a terminal, a line per tenth and a dot per 5 s (-want +got):\n%s", diff)
		}
	})
}

func TestProgressWritesAtMostALinePerTenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := startProgress(&out, false)
		p.Step("etcd", "")
		for done := range 1001 {
			p.Count(packages(done, 1000), done, 1000)
		}
		p.Close()
		if lines := strings.Count(out.String(), "\n"); lines != 11 {
			t.Errorf("1,000 packages took %d lines, want 11:\n%s", lines, out.String())
		}
	})
}

// Downloads have no known total: they must be seen to move all the same.
func TestProgressWithoutTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := startProgress(&out, false)
		p.Step("Go modules", "looking what is here already")
		time.Sleep(3 * time.Second)
		p.Count("downloading, 1 so far: k8s.io/api v0.37.2", 1, 0)
		time.Sleep(13 * time.Second)
		p.Close()
		want := "  Go modules               downloading, 1 so far: k8s.io/api v0.37.2   5s..\n"
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestProgressOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		play(startProgress(&out, true))
		text := out.String()
		if n := strings.Count(text, "\n"); n != 1 || !strings.HasSuffix(text, "\n") {
			t.Errorf("a step takes %d lines on a terminal, want 1, at its end", n)
		}
		frames := strings.Split(strings.TrimSuffix(text, "\n"), "\r\x1b[K")
		if want := "  kube-apiserver           2,311 packages   1m21s"; frames[len(frames)-1] != want {
			t.Errorf("the last frame is %q, want %q", frames[len(frames)-1], want)
		}
		changes := 0
		for i := 1; i < len(frames); i++ {
			if frames[i] != frames[i-1] {
				changes++
			}
		}
		if changes < 81 {
			t.Errorf("the line changed %d times in 81 s: a person doubts after 5 s", changes)
		}
	})
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 12345: "12,345", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}

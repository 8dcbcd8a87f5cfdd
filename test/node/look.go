//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// processOf finds the process of a Pod's container, by what it runs and by the host name that it was given.
func processOf(pod, container string) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range all {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(line, []byte("/rollcall-"+container+"\x00")) {
			continue
		}
		environment, err := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		if err == nil && slices.Contains(strings.Split(string(environment), "\x00"), "HOSTNAME="+pod) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("no process of %s in Pod %s", container, pod)
}

// found is what the files of a container hold.
type found struct {
	files  int
	tokens map[string]string // by the first path
	keys   []string
}

func (f found) paths() []string { return slices.Sorted(maps.Keys(f.tokens)) }

var (
	tokenPattern = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`)
	keyPattern   = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]`)
)

// look reads every file that a process can see, but the kernel's.
func look(pid int) (found, error) {
	root := fmt.Sprintf("/proc/%d/root", pid)
	f := found{tokens: map[string]string{}}
	seen := map[string]bool{}
	err := filepath.WalkDir(root+"/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if entry.IsDir() && slices.Contains([]string{"/proc", "/sys", "/dev"}, name) {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f.files++
		for _, token := range tokenPattern.FindAllString(string(content), -1) {
			if !seen[token] {
				seen[token] = true
				f.tokens[name] = token
			}
		}
		if keyPattern.Match(content) {
			f.keys = append(f.keys, name)
		}
		return nil
	})
	return f, err
}

//go:build !race

package listen

const raced = 1

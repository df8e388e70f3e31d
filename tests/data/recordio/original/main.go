// Prints each record of a RecordIO file in hexadecimal, one a line, as the original implementation reads it.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"github.com/wangkuiyi/recordio"
)

func main() {
	log.SetFlags(0)
	file, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	index, err := recordio.LoadIndex(file)
	if err != nil {
		log.Fatal(err)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	scanner := recordio.NewScanner(file, index, -1, -1)
	count := 0
	for scanner.Scan() {
		fmt.Fprintf(out, "%x\n", scanner.Record())
		count++
	}
	if count != index.NumRecords() {
		out.Flush()
		log.Fatalf("read %d of %d records: %v", count, index.NumRecords(), scanner.Error())
	}
}

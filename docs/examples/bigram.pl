# A language model in Perl that speaks the protocol of docs/protocol.md: pairs of tokens, counted while it reads.
#
#     p(w | h) = (c(h w) + B p(w)) / (c(h) + B)        p(w) = (c(w) + 1) / (n + V)
#
# c(h w) how often w followed h before, c(w) how often w occurred, n the number of tokens so far, V the size of the vocabulary.

my ($V, $B) = (shift(@ARGV), 8);
my (%pairs, %after, @count, $n, $last);
binmode STDIN;
binmode STDOUT;
$| = 1;

sub take {
    my ($length) = @_;
    my $content = "";
    while (length($content) < $length) {
        my $got = sysread(STDIN, $content, $length - length($content), length($content));
        exit 0 unless $got;
    }
    return $content;
}

sub answer {
    my ($content) = @_;
    $content = pack("V", length($content)) . $content;
    my $done = 0;
    $done += syswrite(STDOUT, $content, length($content) - $done, $done) while $done < length($content);
}

sub p {
    my ($w) = @_;
    return (($pairs{"$last $w"} // 0) + $B * ($count[$w] + 1) / ($n + $V)) / (($after{$last} // 0) + $B);
}

sub know {
    my ($w) = @_;
    $pairs{"$last $w"}++;
    $after{$last}++;
    $count[$w]++;
    $n++;
    $last = $w;
}

while (1) {
    my ($kind, $length) = unpack("a V", take(5));
    my $content = take($length);
    if ($kind eq "B") {
        ($last) = $content =~ /"first": *(\d+)/;
        ($n, @count) = (0, (0) x $V);
        answer(qq({"protocol": 2, "vocabulary": $V, "carries": true, "claims": ["causal", "score_first", "single_pass"]}));
    } elsif ($kind eq "K") {
        know($_) for unpack("V*", $content);
    } elsif ($kind eq "R") {
        answer(pack("d<*", map { log(p($_)) } 0 .. $V - 1));
    } elsif ($kind eq "S") {
        my ($first, @nats) = (1);
        for my $w (unpack("V*", $content)) {
            push @nats, -log(p($w));
            know($w);
            if (@nats == 1024) {
                answer(pack("V d<*", $first, @nats));
                ($first, @nats) = ($first + 1024);
            }
        }
        answer(pack("V d<*", $first, @nats)) if @nats;
        answer("");
    }
}

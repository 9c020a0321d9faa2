PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer, -- null implies "false"
    sigs             text, -- space-separated
    ca               text -- if not null, an assertion that the path is content-addressed; see ValidPathInfo
);
INSERT INTO ValidPaths VALUES(1,'/nix/store/w0ap0bkckzjhb6cj7a3rlgx1bydq63db-ca-multi.drv','sha256:f10b37717b0c561f26db92e89be605bbafd56726a3a0e2473355b8258e804c93',1795208377,NULL,528,NULL,NULL,'text:sha256:0wikfxxdclyp0ip1kmwqrrdpb378jwzjw6i51nac50qcj2xzsc9h');
INSERT INTO ValidPaths VALUES(2,'/nix/store/3fcjyj6i3286dcpmphp1vz9ysl0k9wv0-use-ca.drv','sha256:87ec7e0449fcc291a04b6500e967a5b3937b03a9f68a91914a52b67117c2aee7',1795208377,NULL,512,NULL,NULL,'text:sha256:0b0kxrfb4sir3pbh2a82nc1k1990n61sfq8jgp6cqk04by13ajbz');
INSERT INTO ValidPaths VALUES(3,'/nix/store/fksg2yli2sfdglhf2y111wxcbna3l3ng-ca-multi','sha256:db137dc7eedfd64a7a2cdec6b541849967677dd4d1ca0bba522d47bd7a16ddfc',1795208378,'/nix/store/w0ap0bkckzjhb6cj7a3rlgx1bydq63db-ca-multi.drv',120,1,NULL,'fixed:r:sha256:1z6x2rxbsirdaax0pjnisiynfrwrhi0vbiny5ix4mmnzxv3ps4yv');
INSERT INTO ValidPaths VALUES(4,'/nix/store/r081j0xw1n7225g2adf86a9pp0hy3hdy-ca-multi-dev','sha256:6dc109a0e57082ca159bc8e4c62cd112fd9528299f97b61511c5b5543bcaa1a3',1795208378,'/nix/store/w0ap0bkckzjhb6cj7a3rlgx1bydq63db-ca-multi.drv',168,1,NULL,'fixed:r:sha256:18x1r8xm9df524avd5wz54l9bz8js4ncdr68kcawm0khwnh0khbd');
INSERT INTO ValidPaths VALUES(5,'/nix/store/x5049j18q3gbl0zi7djvisbikl8f3vc3-use-ca.drv','sha256:6a4fe594f75fb87ac14138bf341ae30e18338981c71062156ccf54bf5ebb0487',1795208378,NULL,504,NULL,NULL,'text:sha256:1734g7d6f74i1lc892a8whb1lf8kk20xs0ni5wcf7sv5b0w64g50');
INSERT INTO ValidPaths VALUES(6,'/nix/store/wl70mnln8nhydyk8a9fi2ayfwz4cbmby-use-ca','sha256:a7d077743aea81fdc05fa56b9d12c61ddbe9bbf5d57336db41e2260d320a4789',1795208378,'/nix/store/x5049j18q3gbl0zi7djvisbikl8f3vc3-use-ca.drv',176,1,NULL,'fixed:r:sha256:12a718r0s9p287dkcwymynxyknqxqq99ssx5bz0gv0ga79s7gl57');
CREATE TABLE Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
INSERT INTO Refs VALUES(2,1);
INSERT INTO Refs VALUES(4,3);
INSERT INTO Refs VALUES(5,4);
INSERT INTO Refs VALUES(6,4);
CREATE TABLE DerivationOutputs (
    drv  integer not null,
    id   text not null, -- symbolic output id, usually "out"
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
CREATE TABLE Realisations (
    id integer primary key autoincrement not null,
    drvPath text not null,
    outputName text not null, -- symbolic output id, usually "out"
    outputPath integer not null,
    signatures text, -- space-separated list
    foreign key (outputPath) references ValidPaths(id) on delete cascade
);
INSERT INTO Realisations VALUES(1,'sha256:ea025ef6719efe6ee1e9491ea0fe984c5974be1c5bae25abda88cf0c75d85b40','dev',4,'');
INSERT INTO Realisations VALUES(2,'sha256:ea025ef6719efe6ee1e9491ea0fe984c5974be1c5bae25abda88cf0c75d85b40','out',3,'');
INSERT INTO Realisations VALUES(3,'sha256:de13fd71e06b0cbadf3dece14997098d6c5cb04a4896130a0db2be509b76a3ef','out',6,'');
INSERT INTO Realisations VALUES(4,'sha256:8d01229919ce773ef1efca184627805eb7e3007e90b573616c8aeb9afb26caba','out',6,'');
CREATE TABLE RealisationsRefs (
    referrer integer not null,
    realisationReference integer,
    foreign key (referrer) references Realisations(id) on delete cascade,
    foreign key (realisationReference) references Realisations(id) on delete restrict
);
INSERT INTO RealisationsRefs VALUES(4,1);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('ValidPaths',6);
INSERT INTO sqlite_sequence VALUES('Realisations',4);
CREATE INDEX IndexReferrer on Refs(referrer);
CREATE INDEX IndexReference on Refs(reference);
CREATE TRIGGER DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
CREATE INDEX IndexDerivationOutputs on DerivationOutputs(path);
CREATE INDEX IndexRealisations on Realisations(drvPath, outputName);
CREATE INDEX IndexRealisationsRefs on RealisationsRefs(referrer);
CREATE INDEX IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
COMMIT;

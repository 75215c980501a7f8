// The viewer's configuration and what LiverLoop adds to it, which is read before the viewer starts.
(function () {
  const root = __ROOT__;
  const colors = __COLORS__;

  // The panel of MONAI Label takes its server's address from this cookie, and else guesses port 8000.
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(window.location.origin + '/') + '; path=/ohif; samesite=strict';

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [],
    modes: [],
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    useSharedArrayBuffer: 'FALSE',
    defaultDataSourceName: 'dicomweb',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'dicomweb',
        configuration: {
          friendlyName: 'PACS',
          name: 'PACS',
          qidoRoot: root,
          wadoRoot: root,
          qidoSupportsIncludeField: true,
          supportsReject: false,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          dicomUploadEnabled: false,
          singlepart: 'bulkdata,video',
          bulkDataURI: { enabled: true },
        },
      },
    ],
  };
})();
